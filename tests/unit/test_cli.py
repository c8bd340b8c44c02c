"""The `tampu` command without a daemon: words, options, exit codes, and one sentence per error."""

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent import __version__
from agent.cli import ask, status
from agent.cli.main import main
from agent.crash import Crash
from agent.errors import Busy, ConfigError, Internal, RateLimited, TampuError
from agent.findings import Finding, Severity
from agent.status import EngineStatus, Memory, ModelStatus, Status

ROOT = Path(__file__).parents[2]
TAMPU = [sys.executable, "-m", "agent.cli.main"]


@pytest.fixture(autouse=True)
def _own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No daemon and no file of the machine the test runs on."""
    for name in list(os.environ):
        if name.startswith("TAMPU_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path / "run"))
    monkeypatch.chdir(ROOT)


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[bytes], int]]:
    """Puts bytes on stdin, as `< file` does."""
    path = tmp_path / "stdin"
    path.touch()
    with path.open() as file:
        monkeypatch.setattr(sys, "stdin", file)
        yield path.write_bytes


def tampu(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TAMPU, *argv], capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL, **options
    )


# ---- the command line ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "argv", [[], ["nonsense"], ["ask", "--seed", "x", "hi"], ["status", "--nonsense"], ["config"], ["--set"]]
)
def test_usage_errors_exit_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """As every command does."""
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: tampu")


def test_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """On stdout."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert (caught.value.code, capsys.readouterr().out) == (0, f"tampu {__version__}\n")


@pytest.mark.parametrize("verb", ["ask", "status", "doctor", "config", "run", "report"])
def test_the_help_of_each_verb_shows_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One that could be typed."""
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    assert f"  tampu {verb}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv",
    [
        ["--set", "node=attic", "--set", "mqtt.port=1", "config", "show"],
        ["config", "--set", "node=attic", "show", "--set", "mqtt.port=1"],
        ["config", "show", "--set=node=attic", "--set", "mqtt.port=1"],
    ],
)
def test_common_options_are_taken_wherever_they_stand(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the verb, after it, or both."""
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert "node: attic\n" in shown
    assert "  port: 1\n" in shown


def test_config_show_and_check_read_the_named_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`show` fills in the defaults, `check` names the file."""
    file = tmp_path / "my.yaml"
    file.write_text("node: attic\n")
    assert main(["--config", str(file), "config", "show", "--json"]) == 0
    assert capsys.readouterr().out.startswith('{"node":"attic","mqtt":{')
    assert main(["config", "check", "--config", str(file)]) == 0
    assert capsys.readouterr().out == f"OK: {file}\n"
    assert main(["config", "check"]) == 0
    assert capsys.readouterr().out == "OK: no configuration file, the built-in defaults\n"


def test_a_wrong_configuration_exits_with_78_and_its_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On stderr, with nothing else."""
    file = tmp_path / "my.yaml"
    file.write_text("mqtt: {prot: 1}\n")
    for argv in (["config", "check"], ["config", "show"], ["ask", "hi"], ["status"]):
        assert main(["--config", str(file), *argv]) == 78
        said = capsys.readouterr()
        assert (said.out, said.err) == ("", f"tampu: {file}: mqtt.prot: unknown key; did you mean port?\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TampuError("a sentence"), 1),
        (Internal("a sentence"), 1),
        (Busy("a sentence"), 75),
        (RateLimited("a sentence"), 75),
        (ConfigError("a sentence"), 78),
    ],
)
def test_each_error_has_its_exit_code(
    error: TampuError, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """And is said in its own sentence, without a traceback."""

    def fail(_: argparse.Namespace) -> int:
        raise error

    monkeypatch.setattr(status, "show", fail)
    assert main(["status"]) == code
    assert capsys.readouterr().err == "tampu: a sentence\n"


def test_ctrl_c_exits_with_130_and_says_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The person knows what happened."""

    def interrupt(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(status, "show", interrupt)
    assert main(["status"]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("encoding", ["ascii", "iso8859-2", "utf-8"])
def test_a_terminal_of_another_encoding_is_no_error(tmp_path: Path, encoding: str) -> None:
    """A board's name in Chinese, or an emoji in an answer; it ended in a traceback."""
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "proc/device-tree/model").write_text("香橙派 5\0", encoding="utf-8")
    (tmp_path / "proc/cpuinfo").write_text("processor: 0\nisa: rv64imac\n")
    command = [sys.executable, "-m", "agent", "doctor", "--root", str(tmp_path)]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run(command, capture_output=True, env=environment, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    shown = "香橙派 5" if encoding == "utf-8" else "??? 5"
    assert shown in done.stdout.decode(encoding)


def test_a_reader_that_leaves_is_no_error_worth_words() -> None:
    """`tampu config show | head -0`."""
    with subprocess.Popen(
        [*TAMPU, "config", "show"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 1


# ---- no daemon -----------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [("ask", "hi"), ("ask", "--json", "hi"), ("status",), ("status", "--json")])
def test_without_a_daemon_the_exit_code_is_69_and_the_remedy_is_said(
    tmp_path: Path, argv: tuple[str, ...]
) -> None:
    """Missing or left behind by a dead daemon: the same sentence."""
    path = tmp_path / "tampu.sock"
    sentence = f"tampu: no daemon answers on {path}; start it with: tampu run\n"
    done = tampu(*argv, "--socket", str(path))
    assert (done.returncode, done.stdout, done.stderr) == (69, "", sentence)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    done = tampu(*argv, "--socket", str(path))
    assert (done.returncode, done.stdout, done.stderr) == (69, "", sentence)


def test_the_socket_comes_from_the_configuration(tmp_path: Path) -> None:
    """Unless it is given."""
    path = tmp_path / "elsewhere.sock"
    assert f"no daemon answers on {path};" in tampu("ask", "hi", "--set", f"api.socket={path}").stderr


def test_a_socket_path_that_cannot_be_one_is_unreachable() -> None:
    """Longer than the kernel takes."""
    done = tampu("status", "--socket", "/tmp/" + "x" * 200)
    assert done.returncode == 69
    assert "cannot be reached: AF_UNIX path too long" in done.stderr


def test_a_daemon_that_speaks_something_else_is_unreachable(tmp_path: Path) -> None:
    """Bytes that are not HTTP, and a connection that is closed at once."""
    path = tmp_path / "tampu.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        for reply in (b"", b"SSH-2.0-nonsense\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"):
            with subprocess.Popen(
                [*TAMPU, "status", "--socket", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
            ) as process:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1000)
                    connection.sendall(reply)
                _, err = process.communicate(timeout=30)
            assert process.returncode == 69
            assert b"closed the connection before the answer was complete" in err


# ---- what is asked -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "piped", "prompt"),
    [
        (["why", "do", "leaves"], b"", "why do leaves"),
        (["sum", "up"], b"one\ntwo\n", "sum up\n\none\ntwo\n"),
        ([], b"a question\n", "a question\n"),
        (["-"], b"a question", "a question"),
        (["before", "-", "after"], b"middle", "before middle after"),
    ],
)
def test_the_prompt_is_the_words_and_what_is_piped_in(
    words: list[str], piped: bytes, prompt: str, stdin: Callable[[bytes], int]
) -> None:
    """`-` says where it stands; without it, it stands at the end."""
    stdin(piped)
    assert ask._prompt(words) == prompt


def test_a_stdin_that_nobody_piped_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cron job's or a service's stdin could stay open for ever."""
    with open(os.devnull) as null:
        monkeypatch.setattr(sys, "stdin", null)
        assert ask._prompt(["hi"]) == "hi"
    monkeypatch.setattr(sys, "stdin", None)
    assert ask._prompt(["hi"]) == "hi"
    with pytest.raises(TampuError, match="there is nothing to ask"):
        ask._prompt([])


@pytest.mark.parametrize(
    ("piped", "sentence"), [(b"\xff\xfe", "not UTF-8"), (b"x" * (ask.MAX_STDIN_BYTES + 1), "has more than")]
)
def test_what_is_no_text_or_too_much_is_refused(
    piped: bytes, sentence: str, stdin: Callable[[bytes], int]
) -> None:
    """Before the daemon is bothered."""
    stdin(piped)
    with pytest.raises(TampuError, match=sentence):
        ask._prompt(["-"])


def test_words_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    """Bytes on the command line come as half characters."""
    done = subprocess.run(
        [*TAMPU, "ask", b"\xff", "--socket", str(tmp_path / "s")],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        timeout=30,
    )
    assert done.returncode == 1
    assert done.stderr == b"tampu: the prompt is not UTF-8 text; only text can be asked about\n"


# ---- what it costs -------------------------------------------------------------------------------


def test_ask_imports_nothing_it_does_not_need(tmp_path: Path) -> None:
    """It is typed by hand: no server, no model library, no YAML where there is no file."""
    heavy = ["llama_cpp", "starlette", "uvicorn", "yaml", "paho", "psutil", "asyncio", "jinja2", "watchdog"]
    code = (
        "import sys; from agent.cli.main import main; main(sys.argv[1:]);"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "ask", "hi"],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=30,
    )
    assert "no daemon answers" in done.stderr
    assert done.stdout == "[]\n"


# ---- the screen of `status` ----------------------------------------------------------------------

STATUS = Status(
    state="online",
    reason="",
    version="0.1.0",
    node="attic",
    uptime_s=93_784.0,
    mqtt="connected",
    model=ModelStatus("tiny", "Q4_0", "00", "tiny 1B", 4096, 4, "on the CPU, 2 threads"),
    live=3,
    running=2,
    waiting=1,
    cells_used=1024,
    cells_total=4096,
    tokens_per_s=12.34,
    engine_restarts=1,
    last_crash=Crash(how="SIGKILL", phase="ready", at=1_780_000_000.0),
    memory=Memory(daemon_rss_bytes=30 << 20, engine_rss_bytes=512 << 20),
    engine=EngineStatus(state="ready", for_s=61.0),
)
MEASURED = Memory(
    daemon_rss_bytes=30 << 20,
    engine_rss_bytes=512 << 20,
    daemon_anonymous_bytes=25 << 20,
    engine_anonymous_bytes=120 << 20,
    engine_predicted_bytes=118 << 20,
    hard_bytes=300 << 20,
    hot_file_bytes=98 << 20,
    level=1,
    pressure=2,
)


def test_the_screen_says_it_in_aligned_lines() -> None:
    """A word and its value per line."""
    assert status.render(STATUS) == (
        "state     online\n"
        "node      attic (tampu 0.1.0, up 1 d 2 h)\n"
        "model     tiny Q4_0 (n_ctx 4096, 4 slots; on the CPU, 2 threads)\n"
        "engine    ready for 1 min 1 s\n"
        "mqtt      connected\n"
        "queue     2 running, 1 waiting, 3 under way\n"
        "kv cells  [#####...............] 1024/4096\n"
        "speed     12.3 tok/s\n"
        "memory    daemon 30 MiB, engine 512 MiB resident\n"
        "restarts  1 (last: SIGKILL while ready, 2026-05-28 20:26 UTC)"
    )


def test_what_is_too_long_goes_on_below_its_value() -> None:
    """The screen keeps to 100 columns."""
    runs = "on the CPU, 2 threads, KV cache f16, weights in a faster layout"
    model = ModelStatus("tinyllama-1.1b", "IQ2_XXS", "00", "llama 1B", 2048, 8, runs)
    lines = status.render(msgspec.structs.replace(STATUS, model=model)).splitlines()
    assert lines[2].startswith(
        "model     tinyllama-1.1b IQ2_XXS (n_ctx 2048, 8 slots; on the CPU, 2 threads,"
    )
    assert lines[3].startswith(" " * 10)
    assert lines[3].endswith("layout)")
    assert max(map(len, lines)) <= 100


def test_a_box_that_is_not_ready_says_why() -> None:
    """The reason stands beside the state, and what is not there yet is said to be missing."""
    starting = msgspec.structs.replace(
        STATUS, state="starting", reason="the model is being loaded", model=None, cells_used=0, cells_total=0
    )
    lines = status.render(starting).splitlines()
    assert lines[0] == "state     starting: the model is being loaded"
    assert lines[2] == "model     none loaded"
    assert lines[6] == "kv cells  [....................] 0/0"


def test_prediction_and_measurement_stand_together() -> None:
    """With the budget they have to keep to, and what troubles it."""
    lines = status.render(msgspec.structs.replace(STATUS, memory=MEASURED)).splitlines()
    assert lines[8:10] == [
        "memory    engine 120 MiB (118 MiB predicted), daemon 25 MiB anonymous; budget 300 MiB and 98 MiB of",
        "          the model, lowered to level 1; pressure 2",
    ]


def test_a_sleeping_engine_is_said_to_sleep() -> None:
    """With the time since, and what its last waking took."""
    engine = EngineStatus(state="asleep", for_s=7200.0, wake_s=0.62)
    lines = status.render(msgspec.structs.replace(STATUS, engine=engine)).splitlines()
    assert lines[3] == "engine    asleep for 2 h; the last waking took 0.6 s"
    engine = EngineStatus(state="ready", for_s=5.0, is_context_free=True)
    lines = status.render(msgspec.structs.replace(STATUS, engine=engine)).splitlines()
    assert lines[3] == "engine    ready for 5 s, its context given back"


def test_an_earlier_death_and_findings_stand_on_the_screen() -> None:
    """What is to be mended is below the figures, with the step."""
    crash = Crash(how="SIGKILL", phase="ready", count=0)
    findings = (Finding(Severity.WARNING, "x", "The disk is full.", "Make room."),)
    changed = msgspec.structs.replace(STATUS, engine_restarts=0, last_crash=crash, findings=findings)
    assert status.render(changed).splitlines()[-2:] == [
        "restarts  0 (before this start: SIGKILL while ready)",
        "warning   The disk is full. Make room.",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3600, "1 h"), (90_061, "1 d 1 h")]
)
def test_durations_are_said_in_their_two_largest_units(seconds: float, said: str) -> None:
    """Nobody reads seconds of a month."""
    assert f"up {said})" in status.render(msgspec.structs.replace(STATUS, uptime_s=seconds))


def test_an_answer_that_was_cut_is_not_passed_off_as_whole() -> None:
    """A cancelled or timed-out answer looks complete on the screen: exit 1 and a sentence."""
    ask._complain_if_cut(msgspec.UNSET)
    with pytest.raises(TampuError, match="cut short: cancelled"):
        ask._complain_if_cut("cancelled")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_a_full_disk_is_a_sentence(tmp_path: Path) -> None:
    """Not a traceback; the exit code says that it failed."""
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "agent", "config", "show"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "tampu: the disk is full; free some space, or print somewhere else\n"
