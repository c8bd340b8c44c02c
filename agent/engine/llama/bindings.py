"""llama.cpp's C functions and its log: the only module that imports llama_cpp."""

import ctypes
import importlib
import importlib.util
import sys
import types
from collections import deque
from typing import Any


def _import_bindings() -> Any:
    """`llama_cpp.llama_cpp` without `llama_cpp/__init__.py`.

    The package's own init pulls in numpy and the high-level classes: 22 MB of resident memory and
    0.3 s that a small board does not have, for names we never use.
    """
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("llama-cpp-python is not installed")
    if "llama_cpp" not in sys.modules:
        package = types.ModuleType("llama_cpp")
        package.__path__ = list(spec.submodule_search_locations)
        package.__spec__ = spec
        sys.modules["llama_cpp"] = package
    return importlib.import_module("llama_cpp.llama_cpp")


lib = _import_bindings()

_LOG_LEVEL_DEBUG, _LOG_LEVEL_WARN = 1, 3
# Enough for everything llama.cpp says while it makes one context.
_MAX_LINES = 200


class LogTail:
    """Keeps llama.cpp's last lines: its functions fail with NULL and leave the reason there."""

    def __init__(self) -> None:
        self._lines: deque[tuple[int, str]] = deque(maxlen=_MAX_LINES)
        # ctypes keeps no reference: the callback must live as long as llama.cpp may log.
        self._callback = lib.llama_log_callback(self._take)
        lib.llama_log_set(self._callback, ctypes.c_void_p(0))

    def _take(self, level: int, text: bytes, _user_data: object) -> None:
        if level == _LOG_LEVEL_DEBUG:  # thousands for each context
            return
        line = text.decode("utf-8", "replace").strip()
        if len(line) > 1:
            self._lines.append((level, line))

    def clear(self) -> None:
        """Forget what was said so far."""
        self._lines.clear()

    def text(self) -> str:
        """All lines since the last `clear`, whatever their level."""
        return "\n".join(line for _, line in self._lines)

    def reason(self) -> str:
        """The first complaint since the last `clear`, or an admission that there was none."""
        complaints = (line for level, line in self._lines if level >= _LOG_LEVEL_WARN)
        return next(complaints, "llama.cpp gave no reason")


log_tail = LogTail()
