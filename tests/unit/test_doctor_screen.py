"""The doctor's screen and JSON: what a person reads, and what a program finds."""

import io
import json
import re
from pathlib import Path

import pytest
from msgspec.structs import asdict, replace

from agent.catalog.candidate import Candidate, Fit
from agent.cli.main import main
from agent.doctor.broker import Greeting
from agent.doctor.choice import Choice, Room
from agent.doctor.door import Door
from agent.doctor.examine import examine_recording
from agent.doctor.report import BoxReport, Build, LiveReport, of_machine
from agent.doctor.screen import WIDTH, render
from agent.doctor.sections import bar
from agent.doctor.words import capital
from agent.engine.messages import Device
from agent.findings import Finding, Severity, by_severity
from agent.hardware.machine import Board, Cluster, Cpu, Gpu, Heat, Machine, Memory, Power, Storage
from agent.logs import is_coloured

MIB, GIB = 1 << 20, 1 << 30
MACHINE = Machine(
    cpu=Cpu(
        arch="aarch64",
        microarchitecture="Cortex-A76",
        features=("neon", "fp16", "dotprod", "cpuid"),
        cpus=8,
        cores=8,
        clusters=(
            Cluster(microarchitecture="Cortex-A55", cpus=4),
            Cluster(microarchitecture="Cortex-A76", cpus=4),
        ),
    ),
    memory=Memory(total_bytes=8 * GIB, available_bytes=6 * GIB, swap_bytes=2 * GIB, zram_bytes=2 * GIB),
    board=Board(name="Radxa ROCK 5B"),
    gpus=(Gpu(name="Mali-G610", api="vulkan", is_unified=True, reason="slower than the CPU here"),),
    has_unified_memory=True,
    heat=Heat(zone="soc", celsius=61.3, trip_celsius=85.0, throttled_before=("under_voltage",)),
    power=Power(source="battery", battery_percent=80),
    kernel="Linux 6.1",
    system="Debian 12",
)
FINDINGS = by_severity(
    [
        Finding(Severity.NOTE, "n", "Good to know."),
        Finding(
            Severity.WARNING, "w", "It is slower than it could be, " + "which takes many words " * 8, "Do it."
        ),
        Finding(Severity.ERROR, "e", "it will not work", "mend it with: tampu mend"),
    ]
)
LIVE = LiveReport(
    **asdict(of_machine(MACHINE, ())),
    storage=Storage(kind="sd", read_bytes_s=45_000_000, free_bytes=9 * GIB),
    build=Build(
        version="llama-cpp-python 0.3.36", features=("NEON", "DOTPROD"), sandbox="Landlock 4: no writing"
    ),
    devices=(Device("CPU", "Cortex-A76", "cpu", 0, 0),),
    budget=Room(
        total_bytes=8 * GIB,
        others_bytes=2 * GIB,
        hard_bytes=GIB,
        hot_file_bytes=10 * MIB,
        free_bytes=5 * GIB - 10 * MIB,
    ),
    choice=Choice(
        name="small",
        quant="Q4_0",
        file="/m/small.gguf",
        n_ctx=8192,
        slots=8,
        threads=4,
        kv_type="f16",
        n_gpu_layers=0,
        device="",
        is_repacked=False,
        why=("it fits warm", "4 threads: physical cores we may use"),
    ),
    candidates=(
        Candidate(name="small", quant="Q4_0", file="s", is_chosen=True, fits="warm", reason="chosen"),
        Candidate(
            name="huge",
            quant="Q8_0",
            file="h",
            is_chosen=False,
            fits="refused",
            reason="needs 9.0 GiB",
            fit=Fit(weights_bytes=9 * GIB, repack_bytes=0, kv_bytes=0, compute_bytes=0, fixed_bytes=0),
            decode_tok_s=2.25,
        ),
        Candidate(
            name="mid",
            quant="Q4_0",
            file="i",
            is_chosen=False,
            fits="cold",
            reason="too slow",
            decode_tok_s=3.0,
            is_measured=True,
        ),
    ),
    models_folder="/var/lib/tampu/models",
    broker=Greeting("127.0.0.1", 1883, "5"),
    daemon=Door(path="/run/tampu/tampu.sock", answer="absent"),
)


def lines_of(report: BoxReport) -> list[str]:
    return render(report).splitlines()


def test_the_box_stands_on_the_screen() -> None:
    """Each word with its value, the ones that nothing tells left out."""
    lines = lines_of(of_machine(MACHINE, ()))
    assert lines[:10] == [
        "Box",
        "  board      Radxa ROCK 5B",
        "  cpu        Cortex-A76, aarch64, 8 cores (4 x Cortex-A55 + 4 x Cortex-A76)",
        "  features   neon fp16 dotprod",
        "  memory     8.0 GiB, 6.0 GiB available, 2.0 GiB swap (2.0 GiB of it compressed memory)",
        "  gpu        Mali-G610, shares the RAM: slower than the CPU here",
        "  heat       61 °C, slows down at 85 °C; since it was started: under voltage",
        "  power      battery (80 %)",
        "  system     Debian 12, Linux 6.1",
        "",
    ]
    bare = lines_of(of_machine(Machine(cpu=Cpu(arch="riscv64")), ()))
    assert bare == ["Box", "  cpu        riscv64, 1 core", "", "All is well."]


def test_a_live_report_has_all_sections() -> None:
    """In the order in which one thing stands on the other."""
    lines = lines_of(LIVE)
    titles = [line for line in lines if line and not line.startswith(" ")]
    assert titles == ["Box", "Engine", "Memory", "Model", "Service", "All is well."]
    for line in (
        "  storage    SD card, about 45 MB/s, 9.0 GiB free under /var/lib/tampu/models",
        "  llama.cpp  llama-cpp-python 0.3.36",
        "  devices    CPU (Cortex-A76)",
        "  choice     small Q4_0: n_ctx 8192 in f16, 8 slots, 4 threads",
        "  why        it fits warm",
        "  not taken  huge Q8_0  refused  9.0 GiB  ~2.2 tok/s  needs 9.0 GiB",
        "             mid Q4_0   cold              3.0 tok/s   too slow",
        "  broker     127.0.0.1:1883 answers, MQTT 5",
        "  daemon     does not run",
    ):
        assert line in lines


def test_what_is_missing_is_said_and_not_drawn() -> None:
    """No build, no budget, no choice, no broker."""
    report = replace(
        LIVE, build=None, devices=(), budget=None, choice=None, broker=Greeting("b", 1, "", "name")
    )
    lines = lines_of(report)
    for line in (
        "  llama.cpp  does not start here",
        "  budget     not known",
        "  choice     none",
        "  broker     b:1 NO CONNECTION",
    ):
        assert line in lines


def test_findings_come_worst_first_with_their_remedies() -> None:
    """And the last line counts them."""
    lines = lines_of(of_machine(MACHINE, FINDINGS))
    start = lines.index("ERROR  It will not work.")
    assert lines[start + 1] == "       -> Mend it with: tampu mend"
    assert lines[start + 2].startswith("WARN   It is slower")
    assert re.match(r" {7}\w", lines[start + 3]), "wrapped under its beginning"
    assert "note   Good to know." in lines[start + 4 :]
    assert lines[-1] == "1 error, 1 warning"


def test_no_line_is_wider_than_the_screen() -> None:
    """Long sentences are wrapped under their beginning."""
    report = replace(LIVE, findings=FINDINGS, models_folder="/a/folder" * 9)
    assert max(map(len, lines_of(report))) <= WIDTH


def test_foreign_text_moves_no_cursor() -> None:
    """Names come from device trees, brokers and drivers."""
    evil = replace(MACHINE, board=Board(name="Board\x1b[2J\nERROR  forged"))
    text = render(of_machine(evil, (Finding(Severity.NOTE, "n", "said \x1b[2J"),)))
    assert "\x1b" not in text
    assert not any(line.startswith("ERROR") for line in text.splitlines())


def test_colour_only_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes nothing but colour; NO_COLOR and pipes have none."""
    report = of_machine(MACHINE, FINDINGS)
    coloured = render(report, is_coloured=True)
    assert "\x1b[1;31mERROR\x1b[0m  It will not work." in coloured
    plain = coloured
    for code in ("1;31", "33", "36", "1", "0"):
        plain = plain.replace(f"\x1b[{code}m", "")
    assert plain == render(report)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert is_coloured(Terminal())
    assert not is_coloured(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not is_coloured(Terminal())


@pytest.mark.parametrize(
    ("others", "hard", "hot_file", "free", "drawn"),
    [
        (25, 25, 25, 25, "+" * 15 + "#" * 15 + "=" * 15 + "." * 15),
        (0, 0, 0, 100, "." * 60),
        (1, 1, 0, 9998, "+#" + "." * 58),
        (9999, 1, 1, 0, "+" * 58 + "#="),
    ],
)
def test_the_bar_shows_every_part_that_is_there(
    others: int, hard: int, hot_file: int, free: int, drawn: str
) -> None:
    """However small, and is always as long."""
    room = Room(
        total_bytes=others + hard + hot_file + free,
        others_bytes=others,
        hard_bytes=hard,
        hot_file_bytes=hot_file,
        free_bytes=free,
    )
    assert bar(room) == f"[{drawn}]"


# ---- tampu doctor --root -------------------------------------------------------------------------


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A recorded box, by hand: an aarch64 board with four cores."""
    core = (
        "processor\t: {}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd asimdhp cpuid asimddp\n"
        "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x4\nCPU part\t: 0xd0b\n"
        "CPU revision\t: 1\n\n"
    )
    files = {
        "proc/cpuinfo": "".join(core.format(number) for number in range(4)),
        "proc/meminfo": "MemTotal:        8245952 kB\nMemFree: 1 kB\nMemAvailable:    7000000 kB\n",
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_recorded_box_as_json(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Plain values at the top level; nothing live is in it."""
    assert main(["doctor", "--json", "--root", str(recording)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["arch"] == "aarch64"
    assert (said["cpus"], said["cores"]) == (4, 4)
    assert said["memory_bytes"] == 8245952 * 1024
    assert said["board"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert isinstance(said["features"], list)
    assert isinstance(said["gpus"], list)
    assert isinstance(said["findings"], list)
    assert "unified_memory" in said
    assert not {"broker", "daemon", "build", "choice"} & said.keys()


def test_a_recorded_box_on_the_screen(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The box and nothing else."""
    assert main(["doctor", "--root", str(recording)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["Box", "  board      Raspberry Pi 5 Model B Rev 1.0"]
    assert "Service" not in lines


def test_an_error_among_the_findings_is_exit_code_1(
    recording: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A warning alone is not."""
    found = [Finding(Severity.WARNING, "w", "Slow.")]
    monkeypatch.setattr("agent.doctor.examine.diagnose", lambda _machine: found)
    assert main(["doctor", "--root", str(recording)]) == 0
    assert capsys.readouterr().out.endswith("\n\n0 errors, 1 warning\n")
    found.append(Finding(Severity.ERROR, "e", "Broken."))
    assert main(["doctor", "--root", str(recording)]) == 1
    out = capsys.readouterr().out
    assert "ERROR  Broken.\nWARN   Slow.\n" in out
    assert out.endswith("\n\n1 error, 1 warning\n")


def test_a_root_without_a_box_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, nothing on stdout."""
    assert main(["doctor", "--json", "--root", str(tmp_path / "none")]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"tampu: {tmp_path / 'none'}")
    assert said.err.count("\n") == 1


def test_usage_and_configuration_have_their_own_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """2 for the command line, 78 for the file: a socket path the kernel cannot hold, say."""
    with pytest.raises(SystemExit) as caught:
        main(["doctor", "--nonsense"])
    assert caught.value.code == 2
    file = tmp_path / "my.yaml"
    file.write_text(f"api: {{socket: /{'x' * 120}}}\n")
    assert main(["--config", str(file), "doctor"]) == 78
    assert "longer than 103 bytes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("prefer short prompts", "Prefer short prompts"),
        ("mqtt.password_file: /x cannot be read", "mqtt.password_file: /x cannot be read"),
        ("llama.cpp met a state", "llama.cpp met a state"),
        ("stop. Now", "Stop. Now"),
        ("", ""),
    ],
)
def test_a_key_is_not_written_large(text: str, shown: str) -> None:
    """Mqtt.password_file is no key of the configuration."""
    assert capital(text) == shown


def test_a_recording_without_a_processor_is_warned_of(tmp_path: Path) -> None:
    """One core, and all is well, would be untrue."""
    (tmp_path / "meminfo").write_text("MemTotal: 8000000 kB\nMemAvailable: 4000000 kB\n")
    report = examine_recording(tmp_path)
    assert [finding.code for finding in report.findings] == ["cpu_not_recorded"]
