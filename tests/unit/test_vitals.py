"""How the box is: heat, slowness and what we have its disk write, from a recorded /proc and /sys."""

from pathlib import Path

import msgspec
import pytest

from agent.hardware.listeners import is_exposed
from agent.hardware.process import written_bytes
from agent.mqtt.frames import HealthPayload, encode
from agent.mqtt.health import health_payload
from agent.status import EngineStatus, Memory, Status
from agent.vitals import DAY_S, FRESH_S, RATE_AFTER_S, Vitals, VitalsSource, WriteMeter

STATUS = Status(
    state="online",
    reason="",
    version="0",
    node="box",
    uptime_s=61.0,
    mqtt="connected",
    model=None,
    live=5,
    running=2,
    waiting=1,
    cells_used=10,
    cells_total=100,
    tokens_per_s=9.5,
    engine_restarts=0,
    last_crash=None,
    memory=Memory(100, 200, hard_bytes=1000, hot_file_bytes=500),
    engine=EngineStatus("ready", 1.0),
)


class Box:
    """A /proc and /sys to write into, and a clock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now = 0.0
        self.engine: int | None = None
        self.source = VitalsSource(lambda: self.engine, root, lambda: self.now)

    def put(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def wrote(self, who: int | str, count: int) -> None:
        self.put(f"proc/{who}/io", f"rchar: 1\nwchar: 99999\nread_bytes: 7\nwrite_bytes: {count}\n")


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


# ---- what is written -----------------------------------------------------------------------------


def test_what_a_process_wrote_is_read_or_not_known(box: Box) -> None:
    """Without the kernel's accounting, or for another user's process, nobody tells."""
    assert written_bytes(None, box.root) is None
    box.wrote("self", 4096)
    assert written_bytes(None, box.root) == 4096
    box.put("proc/7/io", "write_bytes: lots\n")
    assert written_bytes(7, box.root) is None


def test_engines_that_ended_still_count(box: Box) -> None:
    """Each takes its own figure with it; the last one that was read is kept."""
    meter = WriteMeter(box.root)
    box.wrote("self", 100)
    assert meter.read(None) == 100
    box.wrote(7, 10)
    assert meter.read(7) == 110
    box.wrote(7, 30)
    assert meter.read(7) == 130
    (box.root / "proc/7/io").unlink()
    assert meter.read(7) == 130
    box.wrote(8, 5)
    assert meter.read(8) == 135
    assert meter.read(None) == 135


def test_a_rate_needs_some_minutes(box: Box) -> None:
    """A start's own writing is no habit."""
    box.wrote("self", 1000)
    box.now = RATE_AFTER_S - 1
    assert box.source.read().written_per_day_bytes is None
    box.now = DAY_S / 2
    box.wrote("self", 5000)
    found = box.source.read()
    assert (found.written_bytes, found.written_per_day_bytes) == (5000, 10_000)


def test_a_second_question_is_answered_from_memory(box: Box) -> None:
    """The box is not read for each that asks."""
    box.wrote("self", 1)
    assert box.source.read().written_bytes == 1
    box.wrote("self", 2)
    box.now = FRESH_S / 2
    assert box.source.read().written_bytes == 1
    box.now = FRESH_S
    assert box.source.read().written_bytes == 2


# ---- heat ----------------------------------------------------------------------------------------


def test_a_box_without_sensors_knows_nothing(box: Box) -> None:
    """A virtual machine, say: not known is not well."""
    assert box.source.read() == Vitals()


def test_heat_and_what_it_does(box: Box) -> None:
    """The hottest zone; a cooler at work is a slow CPU."""
    box.put("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n")
    box.put("sys/class/thermal/thermal_zone0/temp", "61337\n")
    found = box.source.read()
    assert (found.celsius, found.is_throttled) == (61.3, False)
    box.put("sys/class/thermal/cooling_device0/type", "cpufreq-cpu0\n")
    box.put("sys/class/thermal/cooling_device0/cur_state", "2\n")
    box.now = FRESH_S
    assert box.source.read().is_throttled is True


# ---- the payload ---------------------------------------------------------------------------------


def test_health_has_it_all() -> None:
    """Waiting is what is under way and not computed; both processes' memory together."""
    vitals = Vitals(celsius=50.0, is_throttled=False, written_bytes=1, written_per_day_bytes=2)
    payload = health_payload(STATUS, vitals, drops=4)
    assert payload == HealthPayload(
        state="online",
        queue=3,
        active=2,
        tokens_per_s=9.5,
        rss_bytes=300,
        hard_bytes=1000,
        hot_file_bytes=500,
        cells_used=10,
        cells_total=100,
        temperature_c=50.0,
        is_throttled=False,
        written_per_day_bytes=2,
        uptime_s=61.0,
        drops=4,
    )
    assert msgspec.json.decode(encode(payload), type=HealthPayload) == payload


def test_health_with_figures_that_are_a_second_old() -> None:
    """The engine says it runs more than is under way: nothing waits then."""
    stale = msgspec.structs.replace(STATUS, live=0)
    payload = health_payload(stale, Vitals(), 0)
    assert (payload.queue, payload.temperature_c, payload.is_throttled) == (0, None, None)


# ---- listeners -----------------------------------------------------------------------------------

HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
NEAR = "   0: 0100007F:075B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n"
FAR = "   1: 00000000:075B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0\n"
TALK = "   2: 0100A8C0:075B 0200A8C0:1234 01 00000000:00000000 00:00000000 00000000     0\n"
NEAR6 = "   0: 00000000000000000000000001000000:075B 0:0 0A 0\n"
MAPPED6 = "   0: 0000000000000000FFFF00000100007F:075B 0:0 0A 0\n"
FAR6 = "   0: 00000000000000000000000000000000:075B 0:0 0A 0\n"


@pytest.mark.parametrize(
    ("four", "six", "is_open"),
    [
        (NEAR, "", False),
        (NEAR + TALK, NEAR6 + MAPPED6, False),
        (NEAR + FAR, "", True),
        ("", FAR6, True),
        (TALK, "", None),
        ("no table\n", "\0", None),
        ("   0: zz:075B 0:0 0A\n   1: 00:075B x 0A\n", "", None),
    ],
)
def test_who_reaches_a_port(box: Box, four: str, six: str, is_open: bool | None) -> None:
    """A listener on loopback alone is for this box; connections are no listeners."""
    box.put("proc/net/tcp", HEAD + four)
    box.put("proc/net/tcp6", HEAD + six)
    assert is_exposed("localhost", 1883, box.root) is is_open
    assert is_exposed("127.0.0.1", 1883, box.root) is is_open
    assert is_exposed("localhost", 1884, box.root) is None
    assert is_exposed("192.168.1.10", 1883, box.root) is None
