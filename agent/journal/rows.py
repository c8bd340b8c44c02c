"""The journal's tables: a batch to rows, rows to entries. What was damaged is told from what is whole."""

import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from agent.findings import Finding
from agent.journal.entry import Batch, Entry, EntryState, Final, size_of

T = TypeVar("T")

SCHEMA_VERSION = 1
SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE identity(id BLOB NOT NULL);
INSERT INTO identity VALUES(randomblob(16));
CREATE TABLE entries(
    seq INTEGER PRIMARY KEY, client TEXT NOT NULL, id TEXT NOT NULL, digest BLOB NOT NULL,
    run INTEGER NOT NULL, state TEXT NOT NULL, is_alone INTEGER NOT NULL,
    boot_id TEXT NOT NULL, deadline REAL, remaining_s REAL, touched_at REAL NOT NULL);
CREATE TABLE intents(seq INTEGER PRIMARY KEY, body BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE frames(seq INTEGER PRIMARY KEY, body BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE notes(
    number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, body BLOB NOT NULL, crc INTEGER NOT NULL);
PRAGMA user_version={SCHEMA_VERSION};
COMMIT;
"""

MAX_SEQ = 1 << 62
_Seq = Annotated[int, Meta(ge=1, le=MAX_SEQ)]
# On a clock that begins with a boot; NaN and infinity are no times.
_Time = Annotated[float, Meta(ge=-1e10, le=1e10)]


class _Row(Struct, frozen=True, array_like=True):
    """A row of `entries` as it may be: anything else is damage."""

    seq: _Seq
    client: Annotated[str, Meta(min_length=1, max_length=64)]
    id: Annotated[str, Meta(min_length=1, max_length=64)]
    digest: bytes
    run: Annotated[int, Meta(ge=1, le=1 << 31)]
    state: EntryState
    is_alone: Annotated[int, Meta(ge=0, le=1)]
    boot_id: str
    deadline: _Time | None
    remaining_s: _Time | None
    touched_at: _Time


@dataclass(slots=True, kw_only=True)
class Loaded:
    """What a file holds, in order of arrival. `gone` are rows to be removed: damaged ones and their texts."""

    entries: list[Entry] = field(default_factory=list)
    notes: dict[str, bytes] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    max_seq: int = 0
    num_damaged: int = 0
    fault: Finding | None = None
    notices: list[Finding] = field(default_factory=list)


# ---- writing ---------------------------------------------------------------------------------


def write(db: sqlite3.Connection, batch: Batch, offset: int) -> None:
    """The batch in one transaction, each seq moved by `offset`: all or, with sqlite3.Error, nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        _write_parts(db, batch, offset)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _write_parts(db: sqlite3.Connection, batch: Batch, offset: int) -> None:
    for table in ("entries", "intents", "frames"):
        _remove(db, table, [seq + offset for seq in batch.gone])
    rows = ((row.seq + offset, *msgspec.structs.astuple(row)[1:]) for row in batch.rows)
    db.executemany("INSERT OR REPLACE INTO entries VALUES(?,?,?,?,?,?,?,?,?,?,?)", rows)
    encode = msgspec.msgpack.Encoder().encode
    encoded = [(seq, None if finals is None else encode(finals)) for seq, finals in batch.frames]
    for table, texts in (("intents", batch.intents), ("frames", encoded)):
        _remove(db, table, [seq + offset for seq, body in texts if body is None])
        kept = ((seq + offset, body, checksum(body)) for seq, body in texts if body is not None)
        db.executemany(f"INSERT OR REPLACE INTO {table} VALUES(?,?,?)", kept)
    _write_notes(db, batch.notes)


def _remove(db: sqlite3.Connection, table: str, seqs: list[int]) -> None:
    db.executemany(f"DELETE FROM {table} WHERE seq=?", ((seq,) for seq in seqs))  # noqa: S608 - names of ours


def _write_notes(db: sqlite3.Connection, notes: dict[str, bytes | None]) -> None:
    db.executemany("DELETE FROM notes WHERE name=?", ((name,) for name in notes))
    kept = ((name, value, checksum(value)) for name, value in notes.items() if value is not None)
    db.executemany("INSERT INTO notes(name, body, crc) VALUES(?,?,?)", kept)


def checksum(body: bytes) -> int:
    """Flash loses bits, and SQLite does not look."""
    return zlib.crc32(body)


# ---- reading ---------------------------------------------------------------------------------


def load(db: sqlite3.Connection, boot_id: str, now: float) -> Loaded:
    """All entries: live ones with their intent, undelivered ones with both texts, delivered ones with none.

    Raises sqlite3.Error.
    """
    loaded = Loaded(notes=_notes(db))
    intents, frames = _texts(db, "intents"), _texts(db, "frames")
    sizes: dict[int, int] = dict(db.execute("SELECT seq, ifnull(length(body), 0) FROM frames"))
    seen: set[int] = set()
    by_key: dict[tuple[str, str], Entry] = {}
    for row in db.execute("SELECT * FROM entries ORDER BY seq"):
        seen.add(row[0])
        entry = _entry(row, boot_id, now)
        if entry is None or not _give_texts(entry, intents, frames, sizes):
            loaded.num_damaged += 1
            loaded.gone.add(row[0])
            continue
        if older := by_key.pop(entry.key, None):
            loaded.gone.add(older.seq)
        by_key[entry.key] = entry
    loaded.entries = list(by_key.values())
    loaded.gone |= {seq for (seq,) in db.execute("SELECT seq FROM intents")} - seen
    loaded.gone |= set(sizes) - seen
    loaded.max_seq = max((seq for seq in (*seen, *loaded.gone) if 0 < seq <= MAX_SEQ), default=0)
    return loaded


def read_frames(db: sqlite3.Connection, seq: int) -> tuple[Final, ...] | None:
    """The terminal frames of an entry; None when they are not there or damaged. Raises sqlite3.Error."""
    row = db.execute("SELECT body, crc FROM frames WHERE seq=?", (seq,)).fetchone()
    return None if row is None else _finals(_whole(*row))


def _entry(row: tuple[object, ...], boot_id: str, now: float) -> Entry | None:
    """The entry with its deadline on this boot's clock; None for a damaged row."""
    try:
        it = msgspec.convert(row, type=_Row)
    except msgspec.ValidationError:
        return None
    is_same_boot = bool(boot_id) and it.boot_id == boot_id
    deadline = None
    if it.remaining_s is not None:
        # Neither sleep nor a daemon that is away stops the time of this boot; another boot's is not known.
        left_s = it.remaining_s if it.deadline is None or not is_same_boot else it.deadline - now
        deadline = now + min(left_s, it.remaining_s)
    return Entry(
        seq=it.seq,
        client=it.client,
        id=it.id,
        digest=it.digest,
        run=it.run,
        state=it.state,
        is_alone=bool(it.is_alone),
        deadline=deadline,
        touched_at=min(it.touched_at, now) if is_same_boot else now,
        is_on_disk=True,
    )


def _give_texts(
    entry: Entry, intents: dict[int, bytes], frames: dict[int, bytes], sizes: dict[int, int]
) -> bool:
    """Put the texts where they belong; False when the entry is of no use without what is missing."""
    intent, body = intents.get(entry.seq), frames.get(entry.seq)
    if entry.state is EntryState.LIVE:
        entry.intent, entry.num_intent_bytes = intent or b"", len(intent or b"")
        return intent is not None
    finals = _finals(body) if entry.state is EntryState.ENDED else None
    if entry.state is EntryState.ENDED and intent is not None and finals is not None:
        entry.intent, entry.num_intent_bytes = intent, len(intent)
        entry.frames, entry.num_frame_bytes = finals, size_of(finals)
    else:
        # Nobody is left to be told; who asks again is.
        entry.state = EntryState.DELIVERED
        entry.num_frame_bytes = sizes.get(entry.seq, 0)
    return True


def _texts(db: sqlite3.Connection, table: str) -> dict[int, bytes]:
    """Of the entries that are not delivered: what is whole."""
    query = (
        f"SELECT seq, body, crc FROM {table} WHERE seq IN (SELECT seq FROM entries WHERE state<>'delivered')"  # noqa: S608
    )
    rows: Iterator[tuple[int, object, object]] = db.execute(query)
    return {seq: whole for seq, body, crc in rows if (whole := _whole(body, crc)) is not None}


def _notes(db: sqlite3.Connection) -> dict[str, bytes]:
    rows = db.execute("SELECT name, body, crc FROM notes ORDER BY number")
    return {str(name): whole for name, body, crc in rows if (whole := _whole(body, crc)) is not None}


def _whole(body: object, crc: object) -> bytes | None:
    return body if isinstance(body, bytes) and checksum(body) == crc else None


def _finals(body: bytes | None) -> tuple[Final, ...] | None:
    if body is None:
        return None
    try:
        return msgspec.msgpack.decode(body, type=tuple[Final, ...])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
