"""What can be wrong with the journal's file, in a person's words."""

import errno
import sqlite3
from pathlib import Path

from agent.findings import Finding, Severity

# What the disk or the system does to us; any other error of SQLite's means that the file is not right.
_SURROUNDINGS = {
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_NOLFS,
    sqlite3.SQLITE_AUTH,
}
_IN_MEMORY = "Accepted requests are kept in memory only and do not survive a restart:"


def code_of(error: Exception) -> int | None:
    """SQLite's primary result code, if the error has one."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def is_damage(error: Exception) -> bool:
    """Whether the file itself is to blame, so that it is of no more use."""
    return isinstance(error, sqlite3.Error) and code_of(error) not in _SURROUNDINGS


def is_corrupt(error: Exception) -> bool:
    """Whether SQLite has found the file damaged while it was in use."""
    return code_of(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_read_only(error: Exception) -> bool:
    """Whether there may be a file that can be read and not written."""
    return isinstance(error, OSError) and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)


def is_full(error: Exception) -> bool:
    """Whether there was no room. The connection is still good."""
    return code_of(error) == sqlite3.SQLITE_FULL


def unusable(error: Exception, path: Path) -> Finding:
    """Why nothing can be written now, and what helps."""
    if code_of(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        what = f"{_IN_MEMORY} {path} is used by another process."
        return Finding(Severity.ERROR, "journal_locked", what, "Stop it, or set another journal.folder.")
    if is_full(error):
        what = f"{_IN_MEMORY} the disk of {path} is full."
        return Finding(Severity.ERROR, "journal_disk_full", what, f"Make room in {path.parent}.")
    reason = error.strerror if isinstance(error, OSError) else str(error)
    what = f"{_IN_MEMORY} {path} cannot be written ({reason})."
    remedy = (
        f"See that {path.parent} may be written by this user, and look for disk errors in the kernel's log."
    )
    return Finding(Severity.ERROR, "journal_not_written", what, remedy)


def set_aside(reason: str, path: Path) -> Finding:
    """The file was not usable, and a new one was begun."""
    what = f"The journal {reason}, and a new one was begun: requests it held are not answered any more."
    remedy = f"Look for disk errors in the kernel's log; delete {path} when it is of no more use."
    return Finding(Severity.WARNING, "journal_damaged", what, remedy)


def unreadable(num: int, path: Path) -> Finding:
    """Some entries were not readable, the others were."""
    what = f"{num} entries of {path} were damaged and are lost."
    return Finding(Severity.WARNING, "journal_damaged", what, "Look for disk errors in the kernel's log.")
