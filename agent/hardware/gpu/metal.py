"""The GPU of a Mac as Metal describes it. Called in a child only, through Objective-C's C functions."""

import ctypes
from typing import Any, NamedTuple

from agent.hardware.gpu.driver_answer import Asked
from agent.hardware.gpu.driver_library import open_library
from agent.hardware.gpu.vendors import of_name
from agent.hardware.machine import Gpu

METAL = ("/System/Library/Frameworks/Metal.framework/Metal",)
OBJC = ("/usr/lib/libobjc.A.dylib",)
# Without it in the process, Metal gives a program without windows no device (Apple's documentation of
# MTLCreateSystemDefaultDevice).
GRAPHICS = ("/System/Library/Frameworks/CoreGraphics.framework/CoreGraphics",)


class Libraries(NamedTuple):
    """Metal itself, and the runtime that sends messages to its objects."""

    metal: Any
    objc: Any


def ask(libraries: Libraries | None = None) -> Asked:
    """The default GPU; none elsewhere than on a Mac. `total_bytes` is what Metal recommends at most."""
    if libraries is None:
        open_library(GRAPHICS)
        libraries = Libraries(open_library(METAL), open_library(OBJC))
    if not all(libraries):
        return Asked()
    create = libraries.metal.MTLCreateSystemDefaultDevice
    create.restype = ctypes.c_void_p
    device = create()
    if not device:  # no GPU, or a session without one (some virtual machines)
        return Asked()
    is_unified = bool(_send(libraries.objc, device, "hasUnifiedMemory", ctypes.c_bool))
    name = _send(libraries.objc, device, "name", ctypes.c_void_p)
    label = _send(libraries.objc, name, "UTF8String", ctypes.c_char_p) if name else b""
    text = (label or b"Apple GPU").decode("utf-8", "replace")
    gpu = Gpu(
        name=text,
        vendor=of_name(text),
        api="metal",
        kind="integrated" if is_unified else "discrete",
        is_unified=is_unified,
        total_bytes=_send(libraries.objc, device, "recommendedMaxWorkingSetSize", ctypes.c_uint64) or None,
        is_usable=True,
    )
    return Asked((gpu,))


def _send(objc: Any, receiver: int, selector: str, kind: Any) -> Any:
    """[receiver selector], where the answer is of this C type."""
    objc.sel_registerName.restype = ctypes.c_void_p
    objc.sel_registerName.argtypes = [ctypes.c_char_p]
    # A prototype for each call: the function is declared without one, and its answers differ.
    function = ctypes.CFUNCTYPE(kind, ctypes.c_void_p, ctypes.c_void_p)
    send = ctypes.cast(objc.objc_msgSend, function)
    return send(receiver, objc.sel_registerName(selector.encode()))
