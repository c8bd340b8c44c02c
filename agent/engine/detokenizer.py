"""Tokens' bytes to text that is safe to send: whole code points, and no part of a stop string."""

import codecs


class Detokenizer:
    """Feeds on token pieces, returns text; what may still become a stop string is held back.

    The same pieces always give the same text in the same portions, which is what lets an
    interrupted answer go on in another process.
    """

    def __init__(self, stop: tuple[str, ...] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = stop
        self._held = ""
        self.stopped = False

    def feed(self, piece: bytes) -> str:
        """The text this piece completes; sets `stopped` (and drops the rest) at a stop string."""
        if self.stopped:
            return ""
        return self._release(self._held + self._decoder.decode(piece))

    def finish(self) -> str:
        """The text held back, at the end of the answer; half a code point becomes U+FFFD."""
        if self.stopped:
            return ""
        text = self._release(self._held + self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return text + held

    def _release(self, text: str) -> str:
        # The one that is complete first counts, also when it stands inside a longer one: with the
        # longer one the cut would depend on how the tokens split the text.
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            _, cut = min(found)
            return text[:cut]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that begins `stop` without completing it."""
    for size in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
