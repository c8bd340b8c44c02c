"""The words for what could be loaded here: each file, how it fits, how fast it would be, and why not."""

from typing import Literal

from msgspec import Struct

Fits = Literal["warm", "cold", "refused"]


class Fit(Struct, frozen=True, kw_only=True):
    """What a candidate takes, in bytes per part, as it would be loaded (`kv_bytes` at the context chosen).

    `weights_bytes` are mapped from the file; all else is anonymous memory. `device_bytes` is the share
    of all of them that lies in a GPU's own memory; with unified memory it is part of the RAM.
    """

    weights_bytes: int
    repack_bytes: int
    kv_bytes: int
    compute_bytes: int
    fixed_bytes: int
    device_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.repack_bytes + self.kv_bytes + self.compute_bytes + self.fixed_bytes


class Candidate(Struct, frozen=True, kw_only=True):
    """One file and the verdict on it. `quality` is 1 for the unquantised model; `decode_tok_s` is an
    estimate unless `is_measured`; `reason` one sentence why it was chosen or what it lost by."""

    name: str
    quant: str
    file: str
    is_chosen: bool
    fits: Fits
    reason: str
    fit: Fit | None = None
    quality: float | None = None
    decode_tok_s: float | None = None
    is_measured: bool = False
