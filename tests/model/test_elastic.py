"""The pool on the real model: it grows, shrinks, sleeps, gives memory back, and changes nobody's words."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.engine import llama
from agent.engine.chat_template import ChatTemplate
from agent.engine.engine import Options
from agent.engine.messages import Hello, Load, Loaded
from agent.engine.prefix_store import PrefixStore
from agent.engine_process import EngineProcess
from agent.hardware.process import anonymous_bytes
from agent.request import Finished, Message
from tests.support.engine_driver import EngineDriver
from tests.support.model_load import load

MIB = 1 << 20
TOPICS = ["a llama", "a bridge", "rain", "a storehouse"]
# What the C library and Python may keep for later.
SLACK = 8 * MIB


@pytest.fixture
def elastic(model_path: Path) -> Iterator[llama.LlamaBackend]:
    """A context of its own, small at first."""
    llama.initialise()
    backend = llama.LlamaBackend(load(model_path, n_ctx=4096))
    assert backend.forecast.cell_bytes
    backend.resize(512)
    yield backend
    backend.close()


def stories(driver: EngineDriver, backend: llama.LlamaBackend, max_tokens: int) -> None:
    template = ChatTemplate(backend.tokenizer)
    for key, topic in enumerate(TOPICS):
        tokens = template.tokenize([Message("user", f"Write a long story about {topic}.")])
        driver.submit(key, tokens, client=str(key), max_tokens=max_tokens)


def test_answers_across_resizes_are_those_without(elastic: llama.LlamaBackend) -> None:
    """Token for token: the pool grows and shrinks under four answers every few steps."""
    driver = EngineDriver(elastic, n_ctx=4096)
    stories(driver, elastic, 24)
    sizes = [768, 1024, 512, 2048, 600]
    for turn in range(24 * 4):
        driver.turn()
        if turn % 4 == 3:
            assert elastic.resize(sizes[turn // 4 % len(sizes)])
    driver.run()
    elastic.resize(0)
    elastic.resize(2048)
    still = EngineDriver(elastic, n_ctx=2048)
    stories(still, elastic, 24)
    still.run()
    for key in range(len(TOPICS)):
        assert driver.answers[key].tokens == still.answers[key].tokens


def test_shared_cells_stay_shared_across_a_resize(elastic: llama.LlamaBackend) -> None:
    """The ledger counts them once, and a pool that holds them once is large enough."""
    template = ChatTemplate(elastic.tokenizer)
    system = Message("system", "You look after a greenhouse. Answer calmly, in full sentences. " * 12)
    driver = EngineDriver(elastic, n_ctx=4096)
    for key in range(4):
        messages = [system, Message("user", f"Write a long story about {TOPICS[key]}.")]
        public = template.public_prefix(messages)
        driver.submit(
            key, template.tokenize(messages), client=str(key), max_tokens=60, num_public=len(public)
        )
    while min(len(driver.answers[key].tokens) for key in range(4)) < 8:
        driver.turn()
    assert driver.engine._kv.num_resident < 512 < 4 * 170
    assert elastic.resize(512)
    driver.run()
    assert driver.engine._kv.check_integrity() == []


def test_memory_is_what_was_forecast_and_comes_back(elastic: llama.LlamaBackend) -> None:
    """At every size within a few MiB; RSS falls when the pool shrinks and again when it sleeps."""
    measured = {}
    for num_cells in (512, 4096, 1024, 0):
        elastic.resize(num_cells)
        measured[num_cells] = anonymous_bytes()
    cell_bytes = elastic.forecast.cell_bytes
    assert 22_000 < cell_bytes < 24_000
    for num_cells in (4096, 1024):
        grown = measured[num_cells] - measured[512]
        assert abs(grown - (num_cells - 512) * cell_bytes) < SLACK
    assert measured[4096] - measured[1024] > 60 * MIB
    assert measured[1024] - measured[0] > 20 * MIB


def test_a_long_answer_goes_on_in_a_small_context(elastic: llama.LlamaBackend) -> None:
    """Positions are renumbered on the way; the text stays text."""
    template = ChatTemplate(elastic.tokenizer)
    driver = EngineDriver(elastic)
    tokens = template.tokenize([Message("user", "Write a very long story about a llama.")])
    driver.submit(1, tokens, max_tokens=700)
    driver.run()
    ending = driver.answers[1].ending
    assert isinstance(ending, Finished)
    assert driver.engine._kv.check_integrity() == []
    assert len(tokens) + ending.usage.completion > 512
    assert ending.trimmed is not None
    words = driver.answers[1].text.split()
    assert sum(word.isascii() for word in words) > 0.95 * len(words)
    assert "�" not in driver.answers[1].text


def test_a_profile_read_from_disk_says_what_a_computed_one_says(
    model_path: Path, elastic: llama.LlamaBackend, tmp_path: Path
) -> None:
    """Token for token, and without its prefill."""
    template = ChatTemplate(elastic.tokenizer)
    system = Message("system", "You look after a greenhouse. Answer calmly, in full sentences. " * 12)
    prefix = template.public_prefix([system])
    store = PrefixStore(tmp_path, Load(str(model_path), 4096, 8, 32, 1, "f16", 0, model_key="smol"), "build")
    options = Options(profiles=(prefix,), store=store, emit_every_s=0)

    def ask(driver: EngineDriver) -> list[int]:
        tokens = template.tokenize([system, Message("user", "Write a long story about rain.")])
        driver.submit(1, tokens, client="a", max_tokens=16, num_public=len(prefix))
        driver.run()
        ending = driver.answers[1].ending
        assert isinstance(ending, Finished)
        assert ending.usage.cached == len(prefix)
        return driver.answers[1].tokens

    first = EngineDriver(elastic, n_ctx=4096, options=options)
    while not first.engine._kv.holds(prefix):
        first.engine.turn()
    computed = ask(first)
    deadline = time.monotonic() + 30
    while store.load(prefix) is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    elastic.resize(0)
    elastic.resize(512)
    second = EngineDriver(elastic, n_ctx=4096, options=options)
    second.engine._profiles.restore()
    assert second.engine._kv.holds(prefix)
    assert ask(second) == computed


# ---- what the process keeps ----------------------------------------------------------------------


def test_slots_cost_nothing_before_there_is_a_context(model_path: Path) -> None:
    """What llama.cpp frees after planning goes back to the system, however much it was."""
    few, many = (asyncio.run(fixed_bytes(model_path, n_seq_max)) for n_seq_max in (1, 64))
    assert abs(many - few) < MIB


async def fixed_bytes(model_path: Path, n_seq_max: int) -> int:
    """The anonymous memory of an engine process with the model open, as it tells the daemon."""
    process = await EngineProcess.start()
    try:
        assert isinstance(await process.receive(), Hello)
        process.send(load(model_path, n_seq_max=n_seq_max))
        loaded = await process.receive()
        assert isinstance(loaded, Loaded)
        assert loaded.memory
        return loaded.memory.fixed_bytes
    finally:
        process.kill()
        await process.end()
