"""How fast threads read from memory: the ceiling of decoding, which reads every weight for each token.

Each thread scans its own slice of one buffer with the C library's `memchr`, which finds nothing, over
and over; ctypes gives the interpreter's lock up meanwhile. The figure is the sum over the threads of

    bytes of a slice / median seconds of its passes

It is too high by the share of the buffer that stays in the last-level cache, at most
cache / buffer; too low where `memchr` is slower than memory (musl's reads a word at a time) or where
others use the memory too.
"""

import ctypes
import mmap
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path("/")
MAX_BYTES = 256 << 20
# What to read where nothing tells of a cache: few boards have more than 8 MiB of it.
USUAL_BYTES = 64 << 20
# Of what is available: the buffer is gone before a model is opened, but others live here too.
SHARE_OF_MEMORY = 8
# Below twice the cache it is the cache that is measured.
CACHES_WANTED, CACHES_NEEDED = 8, 2
# Below so much, starting the threads counts.
MIN_BYTES = 4 << 20
LEAST_PASSES, MOST_PASSES = 3, 1000

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def buffer_bytes(available_bytes: int, root: Path = ROOT) -> int:
    """How large a buffer to read, in whole pages; 0 where none within bounds says anything of the memory."""
    cache = cache_bytes(root)
    wanted = max(USUAL_BYTES, CACHES_WANTED * cache)
    size = min(wanted, MAX_BYTES, available_bytes // SHARE_OF_MEMORY) // mmap.PAGESIZE * mmap.PAGESIZE
    return size if size >= max(MIN_BYTES, CACHES_NEEDED * cache) else 0


def cache_bytes(root: Path = ROOT) -> int:
    """The largest cache of the first CPU, as the kernel tells it; 0 if it does not."""
    return max(map(_size, (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size")), default=0)


def read_speed(
    num_bytes: int, n_threads: int, seconds: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Bytes per second that `n_threads` read together, in about `seconds`.

    Raises OSError when there is no memory for the buffer.
    """
    with mmap.mmap(-1, num_bytes) as buffer:
        start = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        # Pages nobody wrote to are all one page of zeros, which no scan would leave the cache for.
        ctypes.memset(start, 0, num_bytes)
        size = num_bytes // n_threads
        slices = [(start + i * size, size) for i in range(n_threads)]
        return sum(size / median for median in _pass_medians(slices, seconds, clock))


def _pass_medians(slices: list[tuple[int, int]], seconds: float, clock: Callable[[], float]) -> list[float]:
    """For each slice, which is an address and a size, the median seconds that one pass took."""
    memchr = ctypes.CDLL(None).memchr
    memchr.restype, memchr.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
    together = threading.Barrier(len(slices))
    medians = [0.0] * len(slices)

    def scan(index: int) -> None:
        address, size = slices[index]
        passes: list[float] = []
        together.wait()
        began = clock()
        while len(passes) < LEAST_PASSES or (len(passes) < MOST_PASSES and clock() - began < seconds):
            started = clock()
            memchr(address, 1, size)
            passes.append(clock() - started)
        medians[index] = statistics.median(passes)

    threads = [threading.Thread(target=scan, args=(index,)) for index in range(len(slices))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return medians


def _size(path: Path) -> int:
    """`32768K` in bytes; 0 for anything else."""
    try:
        text = path.read_text().strip()
    except OSError:
        return 0
    number, unit = text[:-1], text[-1:]
    return int(number) * _UNITS[unit] if number.isdecimal() and unit in _UNITS else 0
