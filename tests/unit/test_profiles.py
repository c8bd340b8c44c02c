"""Profiles: computed once, shared by everybody, kept on disk, and back when they are asked for."""

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine.engine import Options
from agent.engine.messages import Load, Pressure
from agent.engine.prefix_store import HEADER_BYTES, PrefixStore
from agent.engine.slot import Rank
from agent.request import Finished
from tests.support.engine_driver import EngineDriver
from tests.support.fake_backend import FakeBackend

SYSTEM = list(range(100))
LOAD = Load("model.gguf", 1024, 4, 32, 1, "f16", 0, model_key="m")


def driver_with(store: PrefixStore | None, **options: int) -> EngineDriver:
    backend = FakeBackend(**{"num_cells": 1024, "num_slots": 4, **options})
    return EngineDriver(
        backend, options=Options(profiles=(SYSTEM,), store=store, sleep_after_s=0.01, emit_every_s=0)
    )


def settle(driver: EngineDriver) -> None:
    """Let the engine compute its profiles and write them down."""
    for _ in range(50):
        if driver.engine._kv.holds(SYSTEM):
            break
        driver.engine.turn()
    for thread in threading.enumerate():
        if thread.name == "profile writer":
            thread.join()


def cached(driver: EngineDriver, key: int) -> int:
    driver.submit(key, [*SYSTEM, 200 + key], client=str(key), max_tokens=2, num_public=len(SYSTEM))
    driver.run()
    ending = driver.answers[key].ending
    assert isinstance(ending, Finished)
    return ending.usage.cached


def test_an_idle_engine_computes_its_profiles_and_says_nothing_of_it() -> None:
    """No event belongs to anybody; the first prompt finds everything but its own words computed."""
    driver = driver_with(None)
    settle(driver)
    assert not driver.answers
    assert cached(driver, 1) == len(SYSTEM)
    assert cached(driver, 2) == len(SYSTEM)


def test_a_prompt_that_comes_first_does_not_wait_for_a_profile() -> None:
    driver = driver_with(None)
    driver.submit(1, [1, 2, 3], client="a", max_tokens=2)
    driver.run()
    assert isinstance(driver.answers[1].ending, Finished)


def test_a_profile_is_read_from_disk_and_not_computed_again(tmp_path: Path) -> None:
    settle(driver_with(PrefixStore(tmp_path, LOAD, "b")))
    again = driver_with(PrefixStore(tmp_path, LOAD, "b"))
    again.engine._profiles.restore()
    assert again.engine._kv.holds(SYSTEM)
    assert cached(again, 1) == len(SYSTEM)
    assert again.backend.num_decodes <= 3


def test_a_profile_that_was_let_go_comes_back_with_the_next_prompt_that_wants_it(tmp_path: Path) -> None:
    driver = driver_with(PrefixStore(tmp_path, LOAD, "b"))
    settle(driver)
    driver.put(Pressure(2))
    driver.engine.turn()
    assert not driver.engine._kv.holds(SYSTEM)
    assert cached(driver, 1) == len(SYSTEM)


def test_a_context_that_slept_has_its_profiles_again(tmp_path: Path) -> None:
    driver = driver_with(PrefixStore(tmp_path, LOAD, "b"))
    settle(driver)
    while not driver.pool.is_asleep:
        driver.engine.turn()
    assert cached(driver, 1) == len(SYSTEM)


def test_a_profile_gives_its_cells_to_answers_that_have_nothing_else() -> None:
    driver = driver_with(None, num_cells=256)
    settle(driver)
    driver.submit(1, list(range(500, 730)), client="a", max_tokens=4)
    driver.run()
    assert isinstance(driver.answers[1].ending, Finished)
    assert not driver.engine._kv.holds(SYSTEM)


# ---- on disk ----------------------------------------------------------------------------------------


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    store = PrefixStore(tmp_path, LOAD, "b")
    store.save(SYSTEM, b"state")
    state = store.load(SYSTEM)
    assert state is not None
    assert bytes(state) == b"state"
    assert store.load([1]) is None


@pytest.mark.parametrize(
    "other",
    [
        PrefixStore(Path(), LOAD, "another build"),
        PrefixStore(Path(), Load("model.gguf", 1024, 4, 32, 1, "q8_0", 0, model_key="m"), "b"),
        PrefixStore(Path(), Load("model.gguf", 1024, 4, 32, 1, "f16", 0, model_key="n"), "b"),
    ],
)
def test_another_model_build_or_kv_type_finds_nothing(tmp_path: Path, other: PrefixStore) -> None:
    PrefixStore(tmp_path, LOAD, "b").save(SYSTEM, b"state")
    other._folder = tmp_path
    assert other.load(SYSTEM) is None


@given(st.integers(0, HEADER_BYTES + 100), st.binary(max_size=40), st.booleans())
def test_a_damaged_file_is_found_out_and_removed(
    tmp_path_factory: pytest.TempPathFactory, at: int, bytes_there: bytes, is_cut: bool
) -> None:
    """Whatever was overwritten, and wherever it ends: the state that was saved, or none."""
    folder = tmp_path_factory.mktemp("profiles")
    store = PrefixStore(folder, LOAD, "b")
    store.save(SYSTEM, bytes(range(100)))
    (path,) = folder.iterdir()
    content = path.read_bytes()
    damaged = content[:at] + bytes_there + (b"" if is_cut else content[at + len(bytes_there) :])
    path.write_bytes(damaged)
    state = store.load(SYSTEM)
    assert (state is not None and bytes(state) == bytes(range(100))) or not path.exists() or not damaged


def test_a_disk_that_cannot_be_written_is_said_and_nothing_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    PrefixStore(tmp_path / "file", LOAD, "b").save(SYSTEM, b"state")
    assert "cannot be written" in caplog.text


def test_what_is_no_longer_declared_goes_when_the_folder_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what a power cut left half written goes at once."""
    monkeypatch.setattr("agent.engine.prefix_store.MAX_BYTES", 2 * HEADER_BYTES)
    store = PrefixStore(tmp_path, LOAD, "b")
    for tokens in ([1], [2], [3]):
        store.save(tokens, b"state")
    (tmp_path / "half.part").touch()
    store.tidy([[1]])
    assert store.load([1]) is not None
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_that_cannot_be_read_is_removed_and_computed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bad block of an SD card is an error of the read, never of memory."""
    store = PrefixStore(tmp_path, LOAD, "b")
    store.save(SYSTEM, b"state")

    def bad_block(*_: object) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(PrefixStore, "_complaint", bad_block)
    assert store.load(SYSTEM) is None
    assert list(tmp_path.iterdir()) == []


def test_what_is_on_disk_is_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cards wear out."""
    driver = driver_with(PrefixStore(tmp_path, LOAD, "b"))
    settle(driver)
    (path,) = tmp_path.iterdir()
    written = path.stat().st_mtime_ns
    monkeypatch.setattr(PrefixStore, "load", lambda *_: None)
    again = driver_with(PrefixStore(tmp_path, LOAD, "b"))
    settle(again)
    assert path.stat().st_mtime_ns == written


def test_a_profile_somebody_used_first_becomes_one_all_the_same(tmp_path: Path) -> None:
    """Its prompt was answered before there was time to compute it: the rest is one token."""
    driver = driver_with(PrefixStore(tmp_path, LOAD, "b"))
    assert cached(driver, 1) == 0
    settle(driver)
    for _ in range(20):
        if driver.engine._kv.holds(SYSTEM, Rank.PROFILE):
            break
        driver.engine.turn()
    assert driver.engine._kv.holds(SYSTEM, Rank.PROFILE)


def test_a_profile_comes_back_into_a_cache_that_is_full_of_finished_answers(tmp_path: Path) -> None:
    """They make way for what the next prompt begins with."""
    driver = driver_with(PrefixStore(tmp_path, LOAD, "b"), num_cells=256)
    settle(driver)
    driver.engine._kv.drop_cached()
    for key in range(10, 14):
        driver.submit(key, [key] * 60, client=str(key), max_tokens=3)
        driver.run()
    assert not driver.engine._kv.holds(SYSTEM)
    assert cached(driver, 1) == len(SYSTEM)
