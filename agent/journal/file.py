"""The journal's SQLite file. Used on the journal's thread only; errors of SQLite's end here.

One connection holds the file alone (no -shm), in WAL mode with synchronous=FULL: what `write` says is
written survives the loss of power. Rows are found by `seq` only, which grows: new ones lie side by side,
so that a commit writes few pages.
"""

import contextlib
import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from agent.findings import Finding
from agent.journal import faults
from agent.journal.entry import Batch, Final, Written
from agent.journal.rows import MAX_SEQ, SCHEMA, SCHEMA_VERSION, Loaded, load, read_frames, write

T = TypeVar("T")
log = logging.getLogger(__name__)

NAME = "journal.db"
# The WAL is emptied at so many pages, and kept at that size: writing over a file is cheaper than growing one.
WAL_PAGES = 256
WAL_BYTES = 1 << 20
# Beyond this the file behind the WAL cannot be written: then nothing more goes into the WAL either.
MAX_WAL_BYTES = 16 << 20
VACUUM_PAGES = 256
LOCK_WAIT_S = 0.2

_PRAGMAS = (
    "locking_mode=EXCLUSIVE",
    "auto_vacuum=INCREMENTAL",
    "journal_mode=WAL",
    "synchronous=FULL",
    "fullfsync=ON",
    f"wal_autocheckpoint={WAL_PAGES}",
    f"journal_size_limit={WAL_BYTES}",
    "cache_size=-256",
    "secure_delete=FAST",
    "cell_size_check=ON",
    "trusted_schema=OFF",
    "temp_store=MEMORY",
)


class _DamagedError(Exception):
    """The file is no journal of this version; the text says why, after "The journal"."""


class JournalFile:
    """`folder`/journal.db, made when it is missing. Opened by `open`, or else by the next `write`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._db: sqlite3.Connection | None = None
        self._place: tuple[int, int] | None = None
        # Whose rows the caller knows: the identity of the file it has read, or has written everything to.
        self._known: bytes | None = None
        # Rows nobody has read stay for the next start: ours come after them.
        self._offset = 0
        self._notices: list[Finding] = []

    def open(self, boot_id: str, now: float) -> Loaded:
        """Open it and read what it holds. `fault` says why it cannot be written; little may be read then."""
        try:
            loaded = self._or_anew(lambda: load(self._connect(), boot_id, now))
            self._known = self._identity()
        except (sqlite3.Error, OSError, _DamagedError) as error:
            self._disconnect()
            loaded = self._read_copy(boot_id, now) if faults.is_read_only(error) else Loaded()
            loaded.fault = faults.unusable(error, self.path)
        if loaded.num_damaged:
            self._notices.append(faults.unreadable(loaded.num_damaged, self.path))
        loaded.notices = self._take_notices()
        return loaded

    def _read_copy(self, boot_id: str, now: float) -> Loaded:
        """What a file holds on a disk that has become read-only, as worn flash does: SQLite has to write
        even to read it, so it gets a copy."""
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory() as folder:
            for end in ("", "-wal"):
                with contextlib.suppress(FileNotFoundError):
                    shutil.copyfile(f"{self.path}{end}", f"{folder}/{NAME}{end}")
            copy = JournalFile(Path(folder))
            loaded = copy.open(boot_id, now)
            self._known = copy._known
            copy.close()
            return loaded
        return Loaded()

    def write(self, batch: Batch) -> Written:
        """One transaction. Raises nothing that a disk can bring about."""
        try:
            if self._db is not None and self._is_moved():
                self._disconnect()
            if self._db is None and self._is_another():
                return Written(is_anew=True, notices=self._take_notices())
            self._bound_wal(self._connect())
            write(self._connect(), batch, self._offset)
            self._shrink(self._connect())
        except (sqlite3.Error, OSError, _DamagedError) as error:
            return self._recover(error)
        return Written()

    def read_frames(self, seq: int) -> tuple[Final, ...] | None:
        """The terminal frames of an entry; None when they cannot be read."""
        if self._db is None:
            return None
        try:
            return read_frames(self._db, seq + self._offset)
        except sqlite3.Error as error:
            log.warning("%s: a result cannot be read: %s", self.path, error)
            return None

    def close(self) -> None:
        """Bring everything into the one file, and let go of it. A write after this opens it again, and leaves
        rows that it has found there for the next start."""
        self._disconnect()
        self._known = None

    # ---- opening -----------------------------------------------------------------------------

    def _is_another(self) -> bool:
        """Open the file; True when it is not the one whose rows are known."""
        identity = self._or_anew(self._identity)
        if identity == self._known:
            return False
        self._known = identity
        self._offset = min(_one(self._connect(), "SELECT max(seq) FROM entries") or 0, MAX_SEQ)
        return True

    def _identity(self) -> bytes:
        identity: bytes = _one(self._connect(), "SELECT id FROM identity")
        return identity

    def _or_anew(self, action: Callable[[], T]) -> T:
        """Do it; with a damaged file set that aside and do it once more."""
        try:
            return action()
        except (sqlite3.Error, _DamagedError) as error:
            if not isinstance(error, _DamagedError) and not faults.is_damage(error):
                raise
            self._set_aside(str(error) if isinstance(error, _DamagedError) else f"was damaged ({error})")
        return action()

    def _connect(self) -> sqlite3.Connection:
        if self._db is None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _make_private(self.path)
            self._db = _prepared(self.path)
            status = self.path.stat()
            self._place = status.st_dev, status.st_ino
        return self._db

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    def _is_moved(self) -> bool:
        """Somebody has removed the file, or put another in its place."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return True
        return (status.st_dev, status.st_ino) != self._place

    def _set_aside(self, reason: str) -> None:
        """Rename the file and its WAL, over those set aside before. Raises OSError."""
        self._disconnect()
        damaged = f"{self.path}.damaged"
        for end in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(damaged + end)
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self.path}{end}", damaged + end)
        log.error("%s %s; set aside as %s", self.path, reason, damaged)
        self._notices.append(faults.set_aside(reason, Path(damaged)))

    # ---- writing -----------------------------------------------------------------------------

    def _recover(self, error: Exception) -> Written:
        """Be ready for the next write, with a new file if this one is damaged."""
        if faults.is_corrupt(error):
            try:
                self._set_aside(f"was damaged ({error})")
            except OSError as failure:
                error = failure
            else:
                return Written(is_anew=True, notices=self._take_notices())
        if not faults.is_full(error):
            self._disconnect()
        return Written(fault=faults.unusable(error, self.path), notices=self._take_notices())

    def _bound_wal(self, db: sqlite3.Connection) -> None:
        wal = Path(f"{self.path}-wal")
        if wal.exists() and wal.stat().st_size > MAX_WAL_BYTES:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _shrink(self, db: sqlite3.Connection) -> None:
        """Give a few free pages back to the disk, where more than half of them are free."""
        with contextlib.suppress(sqlite3.Error):
            num_free = _one(db, "PRAGMA freelist_count")
            if num_free > VACUUM_PAGES and num_free * 2 > _one(db, "PRAGMA page_count"):
                # A script, because `execute` would take the first of its many steps only.
                db.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")

    def _take_notices(self) -> list[Finding]:
        notices, self._notices = self._notices, []
        return notices


def _make_private(path: Path) -> None:
    """Have the file with mode 0600 before SQLite opens it, which gives its WAL the same. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if os.fstat(descriptor).st_mode & 0o077:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


def _prepared(path: Path) -> sqlite3.Connection:
    """A connection to a file that is whole. Raises sqlite3.Error or _DamagedError."""
    db = sqlite3.connect(path, timeout=LOCK_WAIT_S, isolation_level=None)
    try:
        # A name that is no UTF-8 is one bad name, not a bad file.
        db.text_factory = lambda text: text.decode(errors="replace")
        _prepare(db)
    except BaseException:
        db.close()
        raise
    return db


def _prepare(db: sqlite3.Connection) -> None:
    """Set up a connection and a new file's tables; check an old one's."""
    for pragma in _PRAGMAS:
        db.execute(f"PRAGMA {pragma}").fetchall()
    if _one(db, "SELECT count(*) FROM sqlite_master") == 0:
        db.executescript(SCHEMA)
    if (version := _one(db, "PRAGMA user_version")) != SCHEMA_VERSION:
        raise _DamagedError(f"was written by another version of tampu (schema {version})")
    if (verdict := _one(db, "PRAGMA quick_check(1)")) != "ok":
        raise _DamagedError(f"was damaged ({verdict})")
    if _one(db, "SELECT id FROM identity") is None:
        raise _DamagedError("was damaged (it has lost its identity)")


def _one(db: sqlite3.Connection, query: str) -> Any:
    row = db.execute(query).fetchone()
    return None if row is None else row[0]
