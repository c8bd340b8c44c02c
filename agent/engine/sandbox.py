"""Gives up what the engine never needs: writing files, running programs, TCP. Best effort, by Landlock.

The engine parses files and text that came from elsewhere with a large C++ library; should that be
talked into something, it can read and compute, and speak on its pipe. Kernels without Landlock
(before 5.13) leave things as they are, and `restrict` says so. Interface: linux/landlock.h.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_PR_SET_NO_NEW_PRIVS = 38
_PR_SET_PDEATHSIG = 1

_EXECUTE = 1 << 0
_WRITE_FILE = 1 << 1
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))  # directories, files, devices, sockets, links
_REMOVE_FILE, _MAKE_FILE = 1 << 5, 1 << 8
_REFER = 1 << 13  # since version 2
_TRUNCATE = 1 << 14  # since version 3
_TCP_BIND_AND_CONNECT = 0b11  # since version 4

_FS_SINCE = {1: _EXECUTE | _WRITE_FILE | _REMOVE_AND_MAKE, 2: _REFER, 3: _TRUNCATE}
_NET_VERSION = 4


class _RulesetAttr(ctypes.Structure):
    _fields_ = (("handled_access_fs", ctypes.c_uint64), ("handled_access_net", ctypes.c_uint64))


class _PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def end_with_parent() -> None:
    """Have the kernel end this process when the daemon dies: in a long C++ call nobody reads the pipe."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died just before the kernel knew
            os._exit(1)


def restrict(writable: Path | None = None) -> str:
    """Restrict this process, for good; what was given up, in words for the log and the doctor.

    Files may still be made in the folder `writable`, if it is there or can be made.

    To be called before the first thread starts: only later threads inherit it.
    """
    if sys.platform != "linux":
        return "none: Landlock is Linux's"
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    if version < 1:
        return "none: this kernel has no Landlock"
    try:
        _apply(libc, version, _made(writable))
    except OSError as error:
        return f"none: Landlock refused ({error.strerror})"
    tcp = ", no TCP" if version >= _NET_VERSION else ""
    writing = f"no writing but in {writable}" if writable else "no writing"
    return f"Landlock {version}: {writing}, no running of programs{tcp}"


def _made(folder: Path | None) -> Path | None:
    """The folder, now there; None when it cannot be."""
    try:
        if folder is not None:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return folder


def _apply(libc: ctypes.CDLL, version: int, writable: Path | None) -> None:
    handled = sum(rights for since, rights in _FS_SINCE.items() if version >= since)
    attr = _RulesetAttr(handled, _TCP_BIND_AND_CONNECT if version >= _NET_VERSION else 0)
    # Older kernels know the first field only and check the size.
    size = ctypes.sizeof(attr) if version >= _NET_VERSION else 8
    ruleset = _check(libc.syscall(_CREATE_RULESET, ctypes.byref(attr), size, 0))
    try:
        # GPUs are driven by writing to their device files.
        _allow(libc, ruleset, "/dev", _WRITE_FILE)
        if writable is not None:
            files = _WRITE_FILE | _REMOVE_FILE | _MAKE_FILE | (_TRUNCATE if version >= 3 else 0)
            _allow(libc, ruleset, str(writable), files)
        _check(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        _check(libc.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _PathBeneathAttr(rights, folder)
        _check(libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0))
    finally:
        os.close(folder)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
