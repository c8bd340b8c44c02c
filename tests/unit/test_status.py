"""The state devices see: which of several troubles is named, and what is no trouble."""

import msgspec
import pytest

from agent.catalog.budget import plan
from agent.config import Config
from agent.crash import Crash
from agent.engine.messages import Forecast, Loaded, Stats
from agent.engine_state import EngineState
from agent.findings import Finding, Severity
from agent.mqtt.info import ContractInfo, info_payload
from agent.status import MAX_FINDINGS, Status, StatusSource
from tests.support.scripted_engine import ScriptedEngine

MIB = 1 << 20
LOADED = Loaded("fake", 4096, 8192, 4, 0, 0.1, Forecast(90 * MIB, 20 * MIB, 1000, 30 * MIB))
STATS = Stats(0, 0, 0, 1024, 0, 0.0)

CONTRACT = ContractInfo("contract.schema.json", "00")


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine()


@pytest.fixture
def source(engine: ScriptedEngine) -> StatusSource:
    return StatusSource("box", engine)


def test_a_ready_engine_is_online(source: StatusSource) -> None:
    """Nothing to explain."""
    assert source.state() == ("online", "")


def test_a_sleeping_or_waking_engine_is_online(source: StatusSource, engine: ScriptedEngine) -> None:
    """Requests are taken; the reason says why the next one waits a little."""
    engine.state, engine.reason = EngineState.ASLEEP, "asleep: the next prompt wakes the model"
    assert source.state() == ("online", engine.reason)
    engine.slumber.wake()
    engine.state, engine.reason = EngineState.LOADING, "the model is being loaded"
    assert source.state() == ("online", "waking: the model is being loaded")
    engine.slumber.end_waking(is_up=False)
    assert source.state()[0] == "starting"


def test_a_lowered_budget_is_degraded_while_it_computes(source: StatusSource, engine: ScriptedEngine) -> None:
    """Not while it sleeps: the next start may be better."""
    engine.memory_level.level = 1
    assert source.state() == ("degraded", "runs in a smaller memory budget after it was killed for memory")
    engine.state = EngineState.ASLEEP
    assert source.state()[0] == "online"


def test_the_worst_trouble_is_named(source: StatusSource, engine: ScriptedEngine) -> None:
    """Pressure level 1 is none; no model at all is worse than no memory."""
    engine.memory_level.level, engine.pressure = 1, 1
    source.shortage = "9 of 512 MiB are available"
    assert "smaller memory budget" in source.state()[1]
    engine.pressure = 2
    assert source.state() == ("degraded", "this box is out of memory: 9 of 512 MiB are available")
    engine.state, engine.reason = EngineState.FAILED, "there is no model"
    assert source.state() == ("degraded", "there is no model")
    source.is_stopping = True
    assert source.state()[0] == "stopping"


def test_prediction_follows_the_cells_there_are(source: StatusSource, engine: ScriptedEngine) -> None:
    """Fixed, compute buffers and cells; without a context only what is fixed; unknown without a forecast."""
    assert source.read().memory.engine_predicted_bytes is None
    engine.loaded, engine.stats = LOADED, STATS
    assert source.read().memory.engine_predicted_bytes == 50 * MIB + 1024 * 1000
    engine.stats = msgspec.structs.replace(STATS, is_asleep=True)
    status = source.read()
    assert (status.memory.engine_predicted_bytes, status.engine.is_context_free) == (30 * MIB, True)
    engine.loaded = msgspec.structs.replace(LOADED, memory=None)
    assert source.read().memory.engine_predicted_bytes is None


def test_info_has_budget_and_forecast(source: StatusSource, engine: ScriptedEngine) -> None:
    """Once they are known."""
    info = msgspec.json.decode(info_payload(source.read(), Config(), engine, CONTRACT))
    assert (info["budget"], info["forecast"]) == (None, None)
    source.budget, engine.loaded = plan(400 * MIB, 1 << 40, 94 * MIB, 0), LOADED
    info = msgspec.json.decode(info_payload(source.read(), Config(), engine, CONTRACT))
    assert info["budget"] == {
        "hard_bytes": 306 * MIB,
        "hot_file_bytes": 94 * MIB,
        "is_warm": True,
        "level": 0,
    }
    assert info["forecast"]["compute_bytes"] == 20 * MIB


def test_the_parts_say_what_is_to_be_mended(source: StatusSource) -> None:
    """The worst first, asked anew each time, and bounded whatever a part says."""
    said = [Finding(Severity.NOTE, "n", "Good to know.")]
    source.watch(lambda: said)
    source.watch(lambda: (Finding(Severity.ERROR, "e", "Broken."),))
    assert [finding.code for finding in source.read().findings] == ["e", "n"]
    said.clear()
    assert [finding.code for finding in source.read().findings] == ["e"]
    source.watch(lambda: (Finding(Severity.NOTE, f"n{n}", "x") for n in range(1000)))
    assert len(source.read().findings) == MAX_FINDINGS


def test_the_last_crash_is_an_object_in_status_and_info(source: StatusSource, engine: ScriptedEngine) -> None:
    """How, doing what, with which model, and when."""
    assert source.read().last_crash is None
    engine.last_crash = Crash(how="SIGKILL", phase="ready", model="tiny Q4_0", at=9.0)
    info = msgspec.json.decode(info_payload(source.read(), Config(), engine, CONTRACT))
    wanted = {"how": "SIGKILL", "phase": "ready", "model": "tiny Q4_0", "words": "", "count": 1, "at": 9.0}
    assert info["last_crash"] == wanted
    status = source.read()
    assert msgspec.json.decode(msgspec.json.encode(status), type=Status) == status
