"""Driver libraries and their C strings, by ctypes."""

import ctypes


def open_library(names: tuple[str, ...]) -> ctypes.CDLL | None:
    """The first of these that the loader finds, or None."""
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def text(buffer: bytes) -> str:
    """What a C string says."""
    return buffer.split(b"\0", 1)[0].decode("utf-8", "replace").strip()
