"""Walking over the bytes of a GGUF header: numbers, texts and what is skipped, all of it bounded.

Whatever the bytes say, no more than a window of the file and the texts that are kept are in memory.
"""

import struct
from array import array
from typing import BinaryIO

# Far above real files (the largest header seen has 16 MB, a 262k vocabulary with its merges
# 0.8 M strings), and low enough to be walked through in a second.
MAX_HEADER_BYTES = 128 << 20
MAX_STRINGS = 1 << 21
# Longer ones are no words; the window grows to the longest.
MAX_TOKEN_BYTES = 65535
# Keys, names and values together; real files keep some 10 KB of them.
MAX_KEPT_BYTES = 4 << 20

WINDOW_BYTES = 1 << 18

SCALARS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
U32, I32, F32, U64 = SCALARS[4], SCALARS[5], SCALARS[6], SCALARS[10]


class Invalid(Exception):
    """Why a file is refused, without its name. `remedy` is empty where getting the file again helps."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


def damaged(what: str) -> Invalid:
    """The bytes break a rule of the format, or one of our bounds."""
    return Invalid(f"not a valid GGUF file ({what})")


def truncated(file_bytes: int, needed: int | None = None) -> Invalid:
    """The file ends too early: inside its header, or before the `needed` bytes of its tensors."""
    if needed is None:
        return Invalid(f"the file ends inside its header, after {file_bytes} bytes")
    return Invalid(f"the file ends before its tensors do: {file_bytes} of {needed} bytes")


class Reader:
    """Walks forward over the header through a window of 256 KiB. Every method raises Invalid.

    Never maps the file: one that shrinks while it is copied into place would end a mapping's reader
    with SIGBUS; here it is a short read.
    """

    def __init__(self, file: BinaryIO, file_bytes: int) -> None:
        self.file_bytes = file_bytes
        self._file = file
        self._start = 0  # of the window, in the file
        self._window = b""
        self._at = 0  # in the window
        self._num_strings = 0
        self._kept_bytes = 0

    @property
    def position(self) -> int:
        """How far into the file the walk is, in bytes."""
        return self._start + self._at

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        if self._at + size > len(self._window):
            self._fill(size)
        self._at += size
        return self._window[self._at - size : self._at]

    def number(self, kind: struct.Struct) -> int:
        """The next number (or float, or bool) of one of the SCALARS."""
        value: int = kind.unpack(self.take(kind.size))[0]
        return value

    def name(self, max_bytes: int, what: str) -> str:
        """A key or a name, its length first."""
        length = self.number(U64)
        if length > max_bytes:
            raise damaged(f"{what} of {length} bytes, at most {max_bytes} are allowed")
        name = self.keep(length)
        # llama.cpp compares C strings: it would take `general.alignment\0x` for `general.alignment`.
        if "\0" in name:
            raise damaged(f"{what} with a zero byte in it")
        return name

    def keep(self, length: int) -> str:
        """The next `length` bytes as text; bytes that are no UTF-8 are replaced."""
        self._kept_bytes += length
        if self._kept_bytes > MAX_KEPT_BYTES:
            raise damaged(f"more than {MAX_KEPT_BYTES} bytes of keys and values")
        return self.take(length).decode("utf-8", "replace")

    def skip(self, size: int) -> None:
        """Go `size` bytes on without reading them."""
        self._check(size)
        self._at += size
        if self._at > len(self._window):
            self._start, self._window, self._at = self.position, b"", 0

    def skip_strings(self, count: int) -> None:
        """Go over `count` strings, each with its length first."""
        self._count_strings(count)
        # A vocabulary has hundreds of thousands of them: one unpack each, and no call inside the window.
        for _ in range(count):
            length = self._length()
            if self._at + length <= len(self._window):
                self._at += length
            else:
                self.skip(length)

    def are_unique(self, count: int) -> bool:
        """Go over `count` strings; False when two are the same as C strings, empty ones apart.

        Keeps eight bytes of each, in portions whose sets are small.
        """
        self._count_strings(count)
        portions = [array("q") for _ in range(256)]
        for _ in range(count):
            length = self._length()
            if length > MAX_TOKEN_BYTES:
                raise damaged(f"a token of {length} bytes, at most {MAX_TOKEN_BYTES} are allowed")
            string = self.take(length)
            if 0 in string:
                string = string.partition(b"\0")[0]
            if string:
                number = hash(string)
                portions[number & 255].append(number)
        return all(len(set(portion)) == len(portion) for portion in portions)

    def _length(self) -> int:
        end = self._at + U64.size
        if end > len(self._window):
            self._fill(U64.size)
            end = U64.size
        self._at = end
        length: int = U64.unpack_from(self._window, end - U64.size)[0]
        return length

    def _count_strings(self, count: int) -> None:
        self._num_strings += count
        if self._num_strings > MAX_STRINGS:
            raise damaged(f"more than {MAX_STRINGS} strings")

    def _fill(self, size: int) -> None:
        self._check(size)
        self._start, self._at = self.position, 0
        self._file.seek(self._start)
        self._window = self._file.read(max(size, WINDOW_BYTES))
        if len(self._window) < size:
            raise truncated(self._start + len(self._window))

    def _check(self, size: int) -> None:
        if self.position + size > self.file_bytes:
            raise truncated(self.file_bytes)
        if self.position + size > MAX_HEADER_BYTES:
            raise damaged(f"a header of more than {MAX_HEADER_BYTES} bytes")
