"""The memory's read bandwidth: a buffer the cache cannot hold, and a figure that is a rate."""

from pathlib import Path

import pytest

from agent.hardware import bandwidth
from agent.hardware.bandwidth import buffer_bytes, cache_bytes, read_speed

GIB = 1 << 30


def root_with(folder: Path, *sizes: str) -> Path:
    """A root whose first CPU has caches of these sizes."""
    for index, size in enumerate(sizes):
        cache = folder / f"sys/devices/system/cpu/cpu0/cache/index{index}"
        cache.mkdir(parents=True)
        (cache / "size").write_text(f"{size}\n")
    return folder


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [(("32K", "512K", "32768K"), 32 << 20), (("64K", "2M"), 2 << 20), ((), 0), (("", "lots", "K"), 0)],
)
def test_the_last_level_cache_is_the_largest(tmp_path: Path, sizes: tuple[str, ...], expected: int) -> None:
    """In bytes; 0 where the kernel says nothing or nonsense."""
    assert cache_bytes(root_with(tmp_path, *sizes)) == expected


@pytest.mark.parametrize(
    ("caches", "available", "expected"),
    [
        (("2M",), 4 * GIB, 64 << 20),  # a usual board
        (("32M",), 16 * GIB, 256 << 20),
        (("64M",), 16 * GIB, 256 << 20),  # never more
        ((), 300 << 20, (300 << 20) // 8 // 4096 * 4096),  # 512 MB of RAM
        (("512K",), 24 << 20, 0),  # too short of memory
        (("256M",), 64 * GIB, 0),  # the cache is as large as the largest buffer
    ],
)
def test_the_buffer_is_larger_than_the_cache_and_small_for_the_box(
    tmp_path: Path, caches: tuple[str, ...], available: int, expected: int
) -> None:
    """At most an eighth of what is available; none rather than one that measures the cache."""
    size = buffer_bytes(available, root_with(tmp_path, *caches))
    assert size == pytest.approx(expected, abs=1 << 16)
    assert size <= available // 8


def test_the_figure_is_the_sum_of_what_each_thread_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each its slice, by the median of its passes."""
    monkeypatch.setattr(bandwidth, "_pass_medians", lambda slices, _s, _c: [0.5, 0.25][: len(slices)])
    assert read_speed(8 << 20, 2, 1.0) == (4 << 20) / 0.5 + (4 << 20) / 0.25
    assert read_speed(8 << 20, 1, 1.0) == (8 << 20) / 0.5


def test_slices_lie_beside_each_other_in_the_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    """No two threads read the same: they would share what one of them has fetched."""
    seen: list[tuple[int, int]] = []

    def look(slices: list[tuple[int, int]], _seconds: float, _clock: object) -> list[float]:
        seen.extend(slices)
        return [1.0] * len(slices)

    monkeypatch.setattr(bandwidth, "_pass_medians", look)
    read_speed(12 << 20, 3, 1.0)
    assert [size for _, size in seen] == [4 << 20] * 3
    assert [address - seen[0][0] for address, _ in seen] == [0, 4 << 20, 8 << 20]


def test_memory_is_really_read() -> None:
    """No computer reads memory at less than 10 MB/s, or at more than 100 TB/s."""
    assert 1e7 < read_speed(8 << 20, 2, 0.05) < 1e14
