"""`tampu bench`: what is tried, which file it is, and how the figures are shown."""

import io
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent import bench as running
from agent import config_file
from agent.bench_plan import Target, thread_counts, ways
from agent.catalog.measurements import Bandwidth, Measurements, Speed, best
from agent.cli.bench import find
from agent.cli.bench_report import Bar, Report, render
from agent.cli.main import main
from agent.config import Config
from agent.engine.messages import Device
from agent.errors import ModelUnavailable
from agent.hardware.machine import Cluster, Cpu, Machine
from tests.support.gguf_builder import build

MIB = 1 << 20
TARGET = Target(
    name="m", quant="Q4_0", path=Path("m.gguf"), key="k", file_bytes=100 * MIB, copied_bytes=90 * MIB
)
MACHINE = Machine(cpu=Cpu(arch="x86_64"))


@pytest.fixture(autouse=True)
def _own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration, no daemon and no state of the machine the test runs on."""
    for name in list(os.environ):
        if name.startswith("TAMPU_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))


def device(name: str, kind: str, free: int = 8 << 30) -> Device:
    return Device(name=name, description="", kind=kind, total_bytes=free, free_bytes=free)


def config(folder: Path) -> Config:
    return config_file.from_tree({"models": {"folder": str(folder)}}, "test")


# ---- what is tried -------------------------------------------------------------------------------

BIG_LITTLE = (
    Cluster(microarchitecture="Cortex-A55", cpus=4, capacity=400),
    Cluster(microarchitecture="Cortex-A76", cpus=4, capacity=1024),
)


@pytest.mark.parametrize(
    ("cpu", "usable", "expected"),
    [
        (Cpu(arch="x", cpus=1, cores=1), 1, (1,)),
        (Cpu(arch="x", cpus=2, cores=2), 2, (2, 1)),
        (Cpu(arch="x", cpus=4, cores=4), 4, (4, 1, 2)),
        (Cpu(arch="x", cpus=8, cores=4), 4, (4, 1, 2, 8)),
        (Cpu(arch="x", cpus=8, cores=8, clusters=BIG_LITTLE), 8, (8, 4, 1)),
        (Cpu(arch="x", cpus=8, cores=4), 2, (2, 1)),  # a quota: more threads would wait for each other
    ],
)
def test_the_useful_counts_of_threads_come_first(cpu: Cpu, usable: int, expected: tuple[int, ...]) -> None:
    """All usable cores, the fast ones, one, half; hyperthreads only where nothing limits us."""
    assert thread_counts(cpu, usable) == expected


def test_the_mapped_weights_are_always_measured() -> None:
    """Also where there is no memory for another copy; why not is said with the numbers."""
    found, notes = ways(TARGET, 200 * MIB, ())
    assert [way.name for way in found] == ["evictable"]
    assert notes == ["repacked: not measured, 292 MiB are needed and 200 are free"]


def test_every_gpu_that_has_room_is_a_way() -> None:
    """The CPU's own device and accelerators of the CPU are none; a GPU that tells nothing is tried."""
    devices = (
        device("CPU", "cpu"),
        device("BLAS", "accel"),
        device("CUDA0", "gpu"),
        device("Vulkan0", "igpu", free=0),
        device("CUDA1", "gpu", free=100 * MIB),
    )
    found, notes = ways(TARGET, 1 << 30, devices)
    assert [(way.name, way.is_repacked, way.device) for way in found] == [
        ("evictable", False, ""),
        ("repacked", True, ""),
        ("CUDA0", False, "CUDA0"),
        ("Vulkan0", False, "Vulkan0"),
    ]
    assert notes == ["CUDA1: not measured, 292 MiB are needed and 100 are free"]


def test_weights_without_a_faster_layout_are_not_copied() -> None:
    """The copy would be the same again."""
    found, notes = ways(msgspec.structs.replace(TARGET, copied_bytes=0), 1 << 30, ())
    assert [way.name for way in found] == ["evictable"]
    assert notes == ["repacked: not measured, none of these weights has a faster layout on this CPU"]


# ---- which file ----------------------------------------------------------------------------------


def test_a_loose_file_is_named_as_placement_names_it(tmp_path: Path) -> None:
    """By name, size and time: a hash would read it all."""
    path = tmp_path / "mine.gguf"
    path.write_bytes(build())
    stat = path.stat()
    target = find(config(tmp_path), MACHINE, "mine.gguf")
    assert (target.name, target.path) == ("mine", path)
    assert target.key == f"mine.gguf:{stat.st_size}:{stat.st_mtime_ns}"


def test_a_missing_model_is_an_error_with_the_next_step(tmp_path: Path) -> None:
    """Which fetches it into this very folder."""
    with pytest.raises(ModelUnavailable, match=f"tampu models fetch --folder {tmp_path}"):
        find(config(tmp_path), MACHINE, "auto")


def test_a_file_that_is_no_model_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """The engine would say the same, later."""
    (tmp_path / "notes.gguf").write_text("not a model")
    with pytest.raises(ModelUnavailable, match=r"notes\.gguf"):
        find(config(tmp_path), MACHINE, "notes.gguf")


# ---- what is shown -------------------------------------------------------------------------------


def speed(threads: int, rows: int, prefill: float, decode: float, **more: Any) -> Speed:
    words: dict[str, Any] = {"is_repacked": False, **more}
    return Speed(n_threads=threads, n_batch=rows, prefill_tok_s=prefill, decode_tok_s=decode, **words)


def report(*notes: str, kept: str = "/s/x.json") -> Report:
    measured = Measurements(
        box="b",
        build="llama 1; CPU",
        model_key="k",
        bandwidths=(Bandwidth(n_threads=2, bytes_s=2.5e10), Bandwidth(n_threads=1, bytes_s=1.25e10)),
        speeds=(
            speed(2, 256, 300.0, 100.0),
            speed(2, 32, 250.0, 100.0),
            speed(1, 32, 120.0, 60.0),
            speed(2, 32, 900.0, 99.0, is_repacked=True),
            speed(2, 32, 200.0, 50.0, device="Vulkan0"),
        ),
        seconds=41.6,
    )
    return Report(
        name="m",
        quant="Q4_1",
        file="m.gguf",
        measurements=measured,
        best=best(measured),
        notes=notes,
        kept=kept,
    )


def test_the_screen() -> None:
    """Sorted, each way's name once, the best marked."""
    assert render(report("repacked: not measured"), "Cortex-A76") == (
        "m Q4_1 on Cortex-A76, llama 1; CPU\n"
        "\n"
        "memory  1 thread      12.5 GB/s read\n"
        "        2 threads     25.0 GB/s read\n"
        "\n"
        "   WAY        THREADS  DECODE tok/s  ROWS  PREFILL tok/s\n"
        "   evictable        1          60.0    32          120.0\n"
        "   evictable        2         100.0    32          250.0\n"
        "                                      256          300.0\n"
        "*  repacked         2          99.0    32          900.0\n"
        "   Vulkan0          2          50.0    32          200.0\n"
        "* answers a usual request soonest\n"
        "\n"
        "note: repacked: not measured\n"
        "measured in 42 s, kept in /s/x.json"
    )


def test_figures_that_were_not_kept_name_no_file() -> None:
    """Why not is a note."""
    assert render(report(kept=""), "x").endswith("\nmeasured in 42 s")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_is_redrawn_on_a_terminal_and_told_line_by_line_elsewhere() -> None:
    """A log file gets no carriage returns."""
    drawn, told = Terminal(), io.StringIO()
    for out in (drawn, told):
        with Bar(out) as bar:
            bar(0.0, "memory: reading with 4 threads")
            bar(0.5, "repacked: decode")
    assert told.getvalue() == "  0% memory: reading with 4 threads\n 50% repacked: decode\n"
    first, second = drawn.getvalue().split("\r")[1:]
    assert second.startswith("[###############...............]  50% repacked: decode")
    assert second.endswith("\n")
    assert len(first) == len(second.rstrip("\n"))


@pytest.mark.parametrize("seconds", ["0", "4.9", "nan", "soon", "1e9"])
def test_a_time_out_of_bounds_is_a_usage_error(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With what is allowed."""
    with pytest.raises(SystemExit) as caught:
        main(["bench", "--seconds", seconds])
    assert caught.value.code == 2
    assert "5 to 3600 seconds" in capsys.readouterr().err


def test_the_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    """One that could be typed."""
    with pytest.raises(SystemExit):
        main(["bench", "--help"])
    assert "  tampu bench --json" in capsys.readouterr().out


# ---- the verb ------------------------------------------------------------------------------------


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A model to measure, and figures without measuring; the model's folder."""

    async def at_once(*_: object) -> running.Outcome:
        return running.Outcome(measurements=report().measurements, notes=("a note",))

    monkeypatch.setattr(running, "measure", at_once)
    (tmp_path / "mine.gguf").write_bytes(build())
    return tmp_path


def test_the_figures_are_kept_and_printed(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the state folder, for placement."""
    assert main(["--set", f"models.folder={measured}", "bench", "--model", "mine.gguf"]) == 0
    (kept,) = (measured / "state" / "measurements").iterdir()
    captured = capsys.readouterr()
    assert f"kept in {kept}" in captured.out
    assert "note: a note" in captured.out
    assert "running tampu" not in captured.err


def test_figures_that_cannot_be_kept_are_printed_all_the_same(
    measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the reason and the next step."""
    (measured / "state").write_text("a file where the folder should be")
    assert main(["--set", f"models.folder={measured}", "bench", "--model", "mine.gguf"]) == 0
    assert "could not be kept" in capsys.readouterr().out


def test_disturbed_figures_do_not_take_the_place_of_good_ones(
    measured: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Placement would follow none any more. They do take that of others that were disturbed."""
    kept = []
    for others_cores in (1.0, 2.0, 0.0, 1.0):
        figures = msgspec.structs.replace(report().measurements, others_cores=others_cores)

        async def at_once(*_: object, figures: Measurements = figures) -> running.Outcome:
            return running.Outcome(measurements=figures, notes=())

        monkeypatch.setattr(running, "measure", at_once)
        assert main(["--set", f"models.folder={measured}", "bench", "--model", "mine.gguf"]) == 0
        (file,) = (measured / "state" / "measurements").iterdir()
        kept.append(msgspec.json.decode(file.read_bytes(), type=Measurements).others_cores)
    assert kept == [1.0, 2.0, 0.0, 0.0]
    assert "not kept: those of before" in capsys.readouterr().out


def test_a_running_daemon_is_warned_of(
    measured: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It shares the cores; measuring goes on."""
    monkeypatch.setattr("agent.cli.socket_client.SocketClient.get_json", lambda _self, _route: b"{}")
    assert main(["--set", f"models.folder={measured}", "bench", "--model", "mine.gguf", "--json"]) == 0
    captured = capsys.readouterr()
    assert "a running tampu shares the cores" in captured.err
    assert captured.out.startswith('{"name":"mine"')
