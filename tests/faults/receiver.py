"""The contract's receiving rule, to the letter, over bytes: what a device would have on its screen."""

import hashlib
from dataclasses import dataclass, field

from tests.faults.history import Frame


@dataclass(slots=True)
class Receiver:
    """A higher run empties the buffer; a delta applies iff it begins at the buffer's end; a longer snapshot
    replaces it. `text` is the whole answer once `done` is there, None before."""

    run: int = 0
    buffer: bytes = b""
    text: str | None = None
    has_gap: bool = False
    _chunks: dict[int, bytes] = field(default_factory=dict)

    def take(self, frame: Frame) -> None:
        """Apply one frame, as it came."""
        if frame.run < self.run:
            return
        if frame.run > self.run:
            self.run, self.buffer, self._chunks, self.has_gap = frame.run, b"", {}, False
        raw = (frame.text or "").encode()
        match frame.type:
            case "delta" if frame.off == len(self.buffer):
                self.buffer += raw
                self.has_gap = False
            case "delta":
                self.has_gap = self.has_gap or (frame.off or 0) > len(self.buffer)
            case "snapshot" if len(raw) > len(self.buffer):
                self.buffer, self.has_gap = raw, False
            case "chunk":
                self._chunks[frame.off or 0] = raw
            case "done":
                self.text = self._whole(frame)

    def _whole(self, frame: Frame) -> str | None:
        """None while a chunk is missing."""
        if frame.text is not None:
            return frame.text
        whole = b"".join(raw for _, raw in sorted(self._chunks.items()))
        return whole.decode() if hashlib.sha256(whole).hexdigest() == frame.sha256 else None
