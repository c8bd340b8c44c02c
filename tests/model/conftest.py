"""The real model, opened once per shape of context; a machine without it fails, it does not skip."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.engine import llama
from tests.support.model_load import load

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def model_path() -> Path:
    places = [os.environ.get("TAMPU_TEST_MODEL"), REPOSITORY / "models" / FILE]
    for place in places:
        if place and Path(place).is_file():
            return Path(place)
    pytest.fail(f"{FILE} is not in models/ and not named by TAMPU_TEST_MODEL: run ./build/fetch-models")


@pytest.fixture(scope="session")
def backend(model_path: Path) -> Iterator[llama.LlamaBackend]:
    """Room for eight conversations; tests leave it empty, which each of them checks."""
    llama.initialise()
    opened = llama.LlamaBackend(load(model_path))
    opened.resize(2048)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def small_backend(model_path: Path, backend: llama.LlamaBackend) -> Iterator[llama.LlamaBackend]:
    """256 cells, the least llama.cpp makes: answers have to give way to each other."""
    opened = llama.LlamaBackend(load(model_path, n_ctx=256, n_seq_max=4))
    opened.resize(256)
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _empty_slots(request: pytest.FixtureRequest) -> Iterator[None]:
    """Cached prefixes are the ledger's: the next test has another ledger over the same backend."""
    yield
    for name in {"backend", "small_backend"} & set(request.fixturenames):
        opened: llama.LlamaBackend = request.getfixturevalue(name)
        for slot in range(opened.num_slots):
            opened.remove(slot, 0)
