"""Ten thousand damaged model files: each ends in a header or in the named error, soon, in little memory."""

import contextlib
import random
import resource
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.catalog import gguf, gguf_bytes
from agent.catalog.gguf import GgufHeader, read_header
from agent.errors import ModelFileError
from tests.support import gguf_mutations
from tests.support.gguf_builder import F32_TENSOR, STRING, Key, Tensor, build
from tests.support.gguf_mutations import Base

pytestmark = pytest.mark.timeout(120)

SEED = 20_231
NUM_SMALL, NUM_MANY_STRINGS, NUM_REAL = 9_800, 150, 50
MAX_SECONDS = 2.0
MAX_MEMORY_BYTES = 64 << 20
MODEL = Path(__file__).parents[2] / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Within the block this process cannot map more than MAX_MEMORY_BYTES beyond what it has (on Linux)."""
    if sys.platform != "linux":
        yield
        return
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MAX_MEMORY_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def look(path: Path, base: Base, seed: int) -> bool:
    """Damage the file and read it; whether the reader took it. Fails when it took too long or was wrong."""
    file_bytes = gguf_mutations.write(
        path, gguf_mutations.mutate(random.Random(seed), base.header), base.data_bytes
    )
    begun = time.process_time()
    try:
        header = read_header(path)
    except ModelFileError as error:
        assert str(error).startswith(f"{path}: "), (base.name, seed)
        return False
    else:
        assert is_sound(header, file_bytes), (base.name, seed)
        return True
    finally:
        assert time.process_time() - begun < MAX_SECONDS, (base.name, seed)


def is_sound(header: GgufHeader, file_bytes: int) -> bool:
    """Every tensor lies inside the file, and behind the one before."""
    end = 0
    for tensor in header.tensors:
        begin = header.data_offset + tensor.offset
        if begin < end or tensor.num_bytes < 0 or begin % header.alignment:
            return False
        end = begin + tensor.num_bytes
    return end <= file_bytes


def test_ten_thousand_damaged_files_end_in_a_header_or_the_named_error(tmp_path: Path) -> None:
    """Bits flipped, pieces moved, ends cut off, counts and lengths and offsets overwritten."""
    bases = gguf_mutations.small_bases()
    plan = [bases[number % len(bases)] for number in range(NUM_SMALL)]
    plan += [gguf_mutations.many_strings()] * NUM_MANY_STRINGS
    if MODEL.is_file():
        plan += [gguf_mutations.real_header(MODEL, 2 << 20)] * NUM_REAL
    else:
        plan += [bases[0]] * NUM_REAL

    path = tmp_path / "model.gguf"
    with little_memory():
        taken = Counter(look(path, base, SEED + number) for number, base in enumerate(plan))

    # Damage that nobody notices and damage that everybody does: both kinds were there.
    assert taken.total() == 10_000
    assert taken[True] > 1_000
    assert taken[False] > 5_000


def test_the_same_seed_is_the_same_damage() -> None:
    """What fails once can be looked at again."""
    base = gguf_mutations.small_bases()[0]

    first, second = (gguf_mutations.mutate(random.Random(SEED), base.header) for _ in range(2))

    assert first == second != base.header


def test_the_largest_header_we_take_needs_little_memory(tmp_path: Path) -> None:
    """As many tensors with names as long, and as much text, as the bounds allow."""
    text = "v" * gguf.MAX_KEPT_STRING_BYTES
    keys = [Key(f"key.{number}", STRING, text) for number in range(200)]
    shape = (1 << 20, 0, 1 << 20, 1 << 20)
    tensors = [Tensor(f"{number:050}", shape, F32_TENSOR, 0) for number in range(gguf.MAX_TENSORS)]
    assert 200 * len(text) + 50 * len(tensors) > gguf_bytes.MAX_KEPT_BYTES * 0.9
    path = tmp_path / "model.gguf"
    path.write_bytes(build(keys, tensors))

    tracemalloc.start()
    try:
        header = read_header(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert header.num_tensors == len(tensors)
    assert peak < MAX_MEMORY_BYTES
