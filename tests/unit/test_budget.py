"""The budget: never more than there is, never less useful for having more, and refused with numbers."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.catalog.budget import DAEMON_BYTES, LEVEL_FACTOR, plan
from agent.catalog.gguf import read_header
from agent.catalog.kv_size import UNKNOWN_BYTES_PER_TOKEN, kv_size
from agent.catalog.manifest import Manifest
from agent.catalog.placement import Placement, Resources, place
from agent.catalog.store import Store
from agent.config import Config, Engine, Idle, Models, Profile
from agent.errors import InsufficientMemory
from tests.support.gguf_builder import DEFAULT_KEYS, STRING, U32, Key, build

MIB = 1 << 20
ENGINE_BYTES = 48 * MIB
LEAST = DAEMON_BYTES + ENGINE_BYTES
SIZES = st.integers(0, 1 << 36)


# ---- the arithmetic ------------------------------------------------------------------------------


@given(st.none() | SIZES, SIZES, SIZES, st.integers(0, 1 << 30), st.integers(0, 3))
def test_the_sum_stays_within_what_is_there(
    limit: int | None, available: int, file_bytes: int, cache_bytes: int, level: int
) -> None:
    """Within the configured bound, too; and the minimum is met or it is refused."""
    try:
        budget = plan(limit, available, file_bytes, ENGINE_BYTES + cache_bytes, level)
    except InsufficientMemory as refusal:
        assert refusal.detail["available_bytes"] < refusal.detail["needed_bytes"]
        return
    total = budget.hard_bytes + budget.hot_file_bytes
    assert total <= available
    assert limit is None or total <= limit
    assert budget.engine_bytes >= ENGINE_BYTES + cache_bytes
    assert budget.is_warm == (budget.hot_file_bytes == file_bytes)


@given(st.none() | SIZES, SIZES, SIZES, SIZES, st.integers(0, 3))
def test_more_memory_never_makes_a_budget_smaller(
    limit: int | None, available: int, more: int, file_bytes: int, level: int
) -> None:
    """Neither of its two numbers; and what fits goes on fitting."""
    try:
        small = plan(limit, available, file_bytes, MIB, level)
    except InsufficientMemory:
        return
    large = plan(limit, available + more, file_bytes, MIB, level)
    assert large.hard_bytes >= small.hard_bytes
    assert large.hot_file_bytes >= small.hot_file_bytes


def test_the_whole_file_comes_before_a_larger_cache() -> None:
    """Fits warm from the minimum and the file on; below that parts of the file are read again."""
    warm = plan(LEAST + 100 * MIB, 1 << 40, 90 * MIB, ENGINE_BYTES + 10 * MIB)
    assert (warm.is_warm, warm.hot_file_bytes, warm.hard_bytes) == (True, 90 * MIB, LEAST + 10 * MIB)
    cold = plan(LEAST + 99 * MIB, 1 << 40, 90 * MIB, ENGINE_BYTES + 10 * MIB)
    assert (cold.is_warm, cold.hot_file_bytes, cold.hard_bytes) == (False, 89 * MIB, LEAST + 10 * MIB)
    assert "answers wait for the disk" in cold.why


def test_without_a_bound_a_margin_is_left_to_others() -> None:
    """64 MiB or a tenth, whichever is more."""
    small, large = plan(None, 400 * MIB, 0, ENGINE_BYTES), plan(None, 4000 * MIB, 0, ENGINE_BYTES)
    assert (small.hard_bytes, large.hard_bytes) == (336 * MIB, 3600 * MIB)
    assert plan(4000 * MIB, 400 * MIB, 0, ENGINE_BYTES).hard_bytes == 400 * MIB


def test_more_than_is_any_use_is_left_to_others() -> None:
    """A bound of what the largest cache can take, and a level lowers that."""
    most = plan(None, 4000 * MIB, 100 * MIB, ENGINE_BYTES, most_bytes=200 * MIB)
    assert most.hard_bytes == DAEMON_BYTES + 200 * MIB
    lowered = plan(None, 4000 * MIB, 100 * MIB, ENGINE_BYTES, level=1, most_bytes=200 * MIB)
    assert lowered.hard_bytes == int(most.hard_bytes * LEVEL_FACTOR)
    assert plan(None, 200 * MIB, 0, ENGINE_BYTES, most_bytes=200 * MIB).hard_bytes == 136 * MIB


def test_in_a_cgroup_of_our_own_nothing_is_left_to_others() -> None:
    """Nobody else is there; the box's margin counts all the same."""
    assert plan(None, 4000 * MIB, 0, ENGINE_BYTES, own=130 * MIB).hard_bytes == 122 * MIB
    assert plan(None, 200 * MIB, 0, ENGINE_BYTES, own=190 * MIB).hard_bytes == 136 * MIB
    assert plan(4000 * MIB, 4000 * MIB, 0, ENGINE_BYTES, own=130 * MIB).hard_bytes == 130 * MIB


def test_each_level_leaves_seven_tenths_and_never_less_than_the_minimum() -> None:
    """After deaths for memory."""
    whole = plan(1000 * MIB, 1 << 40, 100 * MIB, ENGINE_BYTES)
    for level in (1, 2, 3):
        lowered = plan(1000 * MIB, 1 << 40, 100 * MIB, ENGINE_BYTES, level)
        assert lowered.hard_bytes == int(whole.hard_bytes * LEVEL_FACTOR**level)
        assert lowered.hot_file_bytes == whole.hot_file_bytes
        assert f"level {level}" in lowered.why
    assert plan(LEAST, 1 << 40, 0, ENGINE_BYTES, 3).hard_bytes == LEAST


@pytest.mark.parametrize(
    ("limit", "available", "words"),
    [
        (
            None,
            100 * MIB,
            "needs 90 MiB of anonymous memory at least, and 36 MiB are available after a margin",
        ),
        (50 * MIB, 1 << 40, "and 50 MiB are allowed (engine.memory); free memory, raise engine.memory"),
        (400 * MIB, 60 * MIB, "and 60 MiB are available (400 MiB are allowed)"),
    ],
)
def test_what_cannot_fit_is_refused_with_numbers_and_the_next_step(
    limit: int | None, available: int, words: str
) -> None:
    """One sentence."""
    with pytest.raises(InsufficientMemory) as caught:
        plan(limit, available, 1 << 30, ENGINE_BYTES + 10 * MIB)
    assert words in caught.value.message
    assert "\n" not in caught.value.message


# ---- what a token takes --------------------------------------------------------------------------


SHAPE = (
    Key("llama.embedding_length", U32, 576),
    Key("llama.attention.head_count", U32, 9),
    Key("llama.attention.head_count_kv", U32, 3),
    Key("llama.context_length", U32, 2048),
)


def model(folder: Path, *keys: Key) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "a.gguf"
    path.write_bytes(build((*DEFAULT_KEYS, *keys)))
    return path


def test_a_tokens_bytes_are_worked_out_from_the_header(tmp_path: Path) -> None:
    """2 layers x 3 KV heads x (64 + 64) values x 2 bytes."""
    size = kv_size(read_header(model(tmp_path, *SHAPE)))
    assert (size.bytes_per_token, size.types) == (1536, ("f16", "q8_0", "q4_0"))
    assert size.cell_bytes("q8_0") == 1536 * 34 / 64


def test_heads_that_are_no_whole_number_of_blocks_are_not_quantised(tmp_path: Path) -> None:
    """80 values are two and a half blocks; llama.cpp would refuse the context."""
    keys = (*SHAPE, Key("llama.attention.key_length", U32, 80), Key("llama.attention.value_length", U32, 80))
    assert kv_size(read_header(model(tmp_path, *keys))).types == ("f16",)


def test_a_header_that_does_not_say_gets_a_guess(tmp_path: Path) -> None:
    """And the manifest, where it knows better, is believed."""
    header = read_header(model(tmp_path, Key("llama.attention.head_count", STRING, "nine")))
    assert kv_size(header).bytes_per_token == UNKNOWN_BYTES_PER_TOKEN
    assert kv_size(header, 23040).bytes_per_token == 23040


# ---- what placement makes of it ------------------------------------------------------------------


def placed(folder: Path, available: int, engine: Engine = Engine(), level: int = 0) -> Placement:  # noqa: B008
    """The decision for a model of 24 KiB a token."""
    layers = (*DEFAULT_KEYS[:1], Key("llama.block_count", U32, 32), *DEFAULT_KEYS[2:], *SHAPE[:-1])
    folder.mkdir(exist_ok=True)
    (folder / "a.gguf").write_bytes(build((*layers, Key("llama.context_length", U32, 32768))))
    config = Config(
        models=Models(folder=str(folder), name="a.gguf"),
        engine=engine,
        profiles={"attic": Profile(system="You know dust.")},
    )
    return place(config, Manifest(folder, ()), Store(folder), Resources(available, 2, level))


def test_the_cache_takes_what_the_budget_has_room_for(tmp_path: Path) -> None:
    """In the best format that holds a conversation; 8192 tokens are enough for a small box."""
    found = {
        available: (
            placed(tmp_path, available * MIB).load.kv_type,
            placed(tmp_path, available * MIB).load.n_ctx,
        )
        for available in (140, 166, 200, 230, 1000, 24000)
    }
    assert found == {
        140: ("q4_0", 1536),
        166: ("q8_0", 2048),
        200: ("f16", 2048),
        230: ("f16", 2816),
        1000: ("f16", 8192),
        24000: ("f16", 8192),
    }


def test_the_engine_is_told_its_own_share(tmp_path: Path) -> None:
    """Without the daemon's; with what names the file, the profiles and the time until it may rest."""
    placement = placed(tmp_path, 400 * MIB, Engine(memory="300M", idle=Idle(context_s=7)))
    load, path = placement.load, tmp_path / "a.gguf"
    assert placement.budget.hard_bytes + placement.budget.hot_file_bytes == 300 * MIB
    assert load.hard_bytes == placement.budget.hard_bytes - DAEMON_BYTES
    assert load.model_key == f"a.gguf:{path.stat().st_size}:{path.stat().st_mtime_ns}"
    assert (load.profiles, load.idle_context_s) == (("You know dust.",), 7)
    assert placement.why[0].startswith("300 MiB (engine.memory): 300 MiB hard; the whole file")
    lowered = placed(tmp_path, 400 * MIB, Engine(memory="300M"), level=1)
    assert lowered.budget.hard_bytes == int(placement.budget.hard_bytes * LEVEL_FACTOR)


def test_what_is_configured_is_not_chosen(tmp_path: Path) -> None:
    """The reasons say so."""
    placement = placed(tmp_path, 1000 * MIB, Engine(n_ctx=512, kv_type="q4_0", threads=1))
    load = placement.load
    assert (load.n_ctx, load.kv_type, load.n_threads) == (512, "q4_0", 1)
    assert all(reason.endswith("configured") for reason in placement.why[1:4])


def test_a_model_that_is_too_large_is_refused_by_placement(tmp_path: Path) -> None:
    """Before an engine has tried."""
    with pytest.raises(InsufficientMemory, match="choose a smaller model"):
        placed(tmp_path, 100 * MIB)
