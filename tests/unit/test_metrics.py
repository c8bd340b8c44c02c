"""What Prometheus is told: in its format, complete from the start, and written whole or not at all."""

import asyncio
import os
import stat
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.answer import Answer
from agent.counts import Counts
from agent.errors import BY_CODE, Busy
from agent.exposition import Family, Sample, render
from agent.findings import Finding, Severity
from agent.metrics import families
from agent.request import Failed, Finished, FinishReason, Message, Request, Sampling, Timings, Usage
from agent.status import EngineStatus, Memory, ModelStatus, Status
from agent.textfile import Textfile, write
from agent.vitals import Vitals
from tests.support.exposition import Read, parse

STATUS = Status(
    state="online",
    reason="",
    version="0.1.0",
    node="attic",
    uptime_s=93_784.5,
    mqtt="connected to 127.0.0.1:1883, MQTT 5",
    model=ModelStatus("tiny", "Q4_0", "00", "tiny 1B", 4096, 4),
    live=5,
    running=2,
    waiting=1,
    cells_used=1024,
    cells_total=4096,
    tokens_per_s=12.3,
    engine_restarts=1,
    last_crash=None,
    memory=Memory(30 << 20, 512 << 20, hard_bytes=300 << 20, hot_file_bytes=98 << 20, level=1),
    engine=EngineStatus("ready", 61.0),
)
VITALS = Vitals(celsius=61.5, is_throttled=False, written_bytes=4096, written_per_day_bytes=9)


def read(status: Status = STATUS, counts: Counts | None = None, vitals: Vitals = VITALS) -> dict[str, Read]:
    return parse(render(families(status, counts or Counts(), vitals)))


def value(found: dict[str, Read], name: str, /, **labels: str) -> float:
    return found[f"tampu_{name}"].samples[frozenset(labels.items())]


def ended(terminal: Finished | Failed | None) -> Answer:
    answer = Answer(1, Request("c", "i", (Message("user", "x"),), Sampling(seed=0), 10))
    answer.terminal = terminal
    return answer


# ---- the format ----------------------------------------------------------------------------------


@given(st.text(), st.text(), st.floats())
def test_any_text_and_number_keeps_to_the_format(label: str, about: str, number: float) -> None:
    """Quotes, backslashes and ends of lines in them are no syntax."""
    family = Family("tampu_x", "gauge", f"x{about}", (Sample(number, (("name", label),)),))
    (found,) = parse(render((family,))).values()
    assert len(found.samples) == 1


def test_a_number_comes_back_as_it_was() -> None:
    """Counters of bytes to the last one, fractions to the last bit."""
    for number in (0.0, 1.0, 0.1, -2.5, 1e300, float((1 << 53) - 1), float("inf")):
        (found,) = parse(render((Family("tampu_x", "gauge", "x", (Sample(number),)),))).values()
        assert found.samples == {frozenset(): number}


def test_a_family_without_samples_is_left_out() -> None:
    """What is not known has no line."""
    assert render((Family("tampu_x", "gauge", "x", ()),)) == ""


# ---- what is told --------------------------------------------------------------------------------


def test_the_gauges_are_those_of_the_status() -> None:
    """In base units."""
    found = read()
    assert value(found, "build_info", version="0.1.0", node="attic") == 1
    assert value(found, "model_info", name="tiny", quant="Q4_0") == 1
    assert (value(found, "queue_requests"), value(found, "active_requests")) == (3, 2)
    assert (value(found, "kv_cells_used"), value(found, "kv_cells")) == (1024, 4096)
    assert value(found, "resident_bytes", process="engine") == 512 << 20
    assert value(found, "temperature_celsius") == 61.5
    assert (value(found, "throttled"), value(found, "broker_connected")) == (0, 1)
    assert (value(found, "engine_restarts_total"), value(found, "written_bytes_total")) == (1, 4096)
    assert (value(found, "up"), value(found, "uptime_seconds")) == (1, 93_784.5)


def test_what_a_box_does_not_know_is_not_told() -> None:
    """No zero stands for it."""
    bare = msgspec.structs.replace(STATUS, model=None, memory=Memory(1, 0))
    found = read(bare, vitals=Vitals())
    missing = {"temperature_celsius", "throttled", "written_bytes_total", "model_info", "budget_hard_bytes"}
    assert not {f"tampu_{name}" for name in missing} & set(found)


def test_trouble_is_told() -> None:
    """Without a broker, with a journal that keeps nothing, not online."""
    finding = Finding(Severity.WARNING, "journal_disk_full", "x")
    found = read(
        msgspec.structs.replace(STATUS, state="degraded", mqtt="disconnected: gone", findings=(finding,))
    )
    assert (value(found, "up"), value(found, "broker_connected")) == (0, 0)
    assert (value(found, "journal_degraded"), value(found, "findings")) == (1, 1)
    assert value(read(), "journal_degraded") == 0


# ---- the counts ----------------------------------------------------------------------------------


def test_every_end_stands_there_from_the_start() -> None:
    """A rate needs a zero to begin with."""
    ends = read()["tampu_requests_total"].samples
    assert len(ends) == len(FinishReason) + len(BY_CODE)
    assert set(ends.values()) == {0}


def test_ends_are_counted_by_reason_or_code() -> None:
    """`cancelled` may be either; tokens and seconds are added up."""
    counts = Counts()
    usage, timings = Usage(prompt=10, cached=4, completion=7), Timings(0.5, 1.0, 2.0)
    for _ in range(2):
        counts.ended(ended(Finished(FinishReason.STOP, usage, timings)))
    counts.ended(ended(Finished(FinishReason.CANCELLED, usage, timings)))
    counts.ended(ended(Failed("cancelled", "x")))
    counts.refused(Busy("full"))
    counts.ended(ended(None))
    found = read(counts=counts)
    assert value(found, "requests_total", end="done", reason="stop") == 2
    assert value(found, "requests_total", end="done", reason="cancelled") == 1
    assert value(found, "requests_total", end="error", reason="cancelled") == 1
    assert value(found, "requests_total", end="error", reason="busy") == 1
    assert value(found, "prompt_tokens_total") == 30
    assert value(found, "prompt_cached_tokens_total") == 12
    assert value(found, "completion_tokens_total") == 21
    assert value(found, "decode_seconds_total") == 6


def test_a_code_nobody_knows_is_internal() -> None:
    """Names stay bounded, whatever an engine of another release says."""
    counts = Counts()
    counts.ended(ended(Failed("brand_new", "x")))
    assert counts.errors["internal"] == 1


# ---- the file ------------------------------------------------------------------------------------


def test_the_file_is_replaced_in_one_step_and_open_to_all(tmp_path: Path) -> None:
    """Whatever the umask, and nothing is left beside it."""
    path = tmp_path / "tampu.prom"
    before = os.umask(0o077)
    try:
        write(path, "old 1\n")
        held = path.open()
        write(path, "new 1\n")
    finally:
        os.umask(before)
    with held:
        assert held.read() == "old 1\n"
    assert path.read_text() == "new 1\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [each.name for each in tmp_path.iterdir()] == ["tampu.prom"]


def test_a_link_in_its_place_is_replaced(tmp_path: Path) -> None:
    """Nothing is written through it."""
    secret, path = tmp_path / "secret", tmp_path / "tampu.prom"
    secret.write_text("mine")
    path.symlink_to(secret)
    (tmp_path / ".tampu.prom.part").symlink_to(secret)
    write(path, "x 1\n")
    assert (secret.read_text(), path.is_symlink()) == ("mine", False)


def test_what_is_no_file_is_left_as_it_is(tmp_path: Path) -> None:
    """Neither replaced nor taken away at the end: as root it may be a device."""
    path = tmp_path / "tampu.prom"
    os.mkfifo(path)
    textfile = Textfile(str(path), 0.001, lambda: "x 1\n")

    async def scenario() -> None:
        task = asyncio.create_task(textfile.run())
        async with asyncio.timeout(20):
            while not textfile.findings():
                await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())
    assert path.is_fifo()


def test_a_folder_that_cannot_be_written_is_a_finding(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Said once in the log; when it is there the file is written, and the finding goes."""
    folder = tmp_path / "later"
    textfile = Textfile(str(folder / "tampu.prom"), 0.001, lambda: "x 1\n")

    async def scenario() -> None:
        task = asyncio.create_task(textfile.run())
        async with asyncio.timeout(20):
            while not textfile.findings():
                await asyncio.sleep(0.001)
            (finding,) = textfile.findings()
            assert (finding.code, finding.severity) == ("metrics_not_written", Severity.WARNING)
            assert f"See that the folder {folder} is there and writable" in finding.remedy
            assert f"ReadWritePaths={folder}" in finding.remedy
            await asyncio.sleep(0.05)
            folder.mkdir()
            while textfile.findings():
                await asyncio.sleep(0.001)
            assert (folder / "tampu.prom").read_text() == "x 1\n"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())
    assert sum("cannot be written" in record.message for record in caplog.records) == 1
    assert not (folder / "tampu.prom").exists(), "what it says is true no more"


def test_a_name_that_the_exporter_does_not_read_is_a_finding(tmp_path: Path) -> None:
    """It reads *.prom only."""
    (finding,) = Textfile(str(tmp_path / "tampu.txt"), 1.0, str).findings()
    assert (finding.code, "tampu.prom" in finding.remedy) == ("metrics_misnamed", True)
    assert Textfile(str(tmp_path / "tampu.prom"), 1.0, str).findings() == ()
