"""`tampu report`: what helps is in it, what is nobody's business is not, and it is bounded and private."""

import asyncio
import json
import os
import stat
from pathlib import Path

import msgspec
import pytest

from agent import config_file
from agent.cli.main import main
from agent.doctor import support
from agent.doctor.support import MAX_BYTES, Report, contents, encode, hidden, save
from agent.errors import TampuError
from agent.findings import Finding, Severity
from agent.model_list import ModelHere

EMPTY = Report(made_at="2026-01-01T00:00:00Z", version="0", python="3.11", system="Linux box 6.1")
SECRETS = ("You are the keeper", "grandmother", "hunter2")


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    """A configuration with everything that is somebody's own."""
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    path = tmp_path / "tampu.yaml"
    tree = {
        "node": "attic",
        "mqtt": {"username": "grandmother", "password_file": str(secret), "host": "192.0.2.1"},
        "profiles": {"keeper": {"system": "You are the keeper of the greenhouse."}},
        "models": {"folder": str(tmp_path / "models")},
        "api": {"socket": str(tmp_path / "t.sock")},
    }
    path.write_text(json.dumps(tree))
    return path


def test_the_configuration_is_there_without_what_is_private(config_path: Path) -> None:
    """Paths stay; names and prompts go."""
    text = json.dumps(hidden(config_file.load(str(config_path))))
    assert not any(secret in text for secret in SECRETS)
    assert "password" in text
    assert "(hidden): 37 characters" in text


def test_a_report_can_be_had_of_a_box_on_which_nothing_works(
    config_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No daemon, no broker, no model, and a doctor that stumbles: each is said."""

    async def stumble(*_args: object, **_options: object) -> None:
        raise RuntimeError("the user 'grandmother' was not expected")

    monkeypatch.setattr(support, "examine", stumble)
    out = tmp_path / "report.json"
    assert main(["report", "--config", str(config_path), "--output", str(out)]) == 0
    text = out.read_text()
    tree = json.loads(text)
    assert tree["node"] == "attic"
    assert [trouble.split(":")[0] for trouble in tree["troubles"]] == ["status", "doctor"]
    assert not any(secret in text for secret in SECRETS)
    screen = capsys.readouterr().out
    assert str(out) in screen
    assert "not there: status: no daemon answers" in screen


def test_a_wrong_configuration_is_part_of_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be what is wrong."""
    monkeypatch.chdir(tmp_path)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("mqtt: {port: many}\n")
    assert main(["report", "--config", str(wrong)]) == 0
    (path,) = tmp_path.glob("tampu-report-box-*.json")
    assert "mqtt.port" in json.loads(path.read_text())["troubles"][0]
    assert "mqtt.port" in capsys.readouterr().out


def test_the_brokers_user_is_named_in_no_sentence(config_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor quotes it where the broker does not let it in."""
    finding = Finding(Severity.ERROR, "x", "The broker does not let in the user 'grandmother'.")

    async def find(*_args: object, **_options: object) -> None:
        raise ValueError(finding.what)

    monkeypatch.setattr(support, "examine", find)
    report = asyncio.run(support.collect(str(config_path), (), None))
    assert "the user (hidden)" in report.troubles[-1]


# ---- bounds --------------------------------------------------------------------------------------


def test_old_log_lines_go_first() -> None:
    """What is left out is counted."""
    lines = tuple(f"{n} {'x' * 2000}" for n in range(1000))
    content = encode(msgspec.structs.replace(EMPTY, log=lines))
    assert len(content) <= MAX_BYTES
    tree = json.loads(content)
    assert tree["log"][-1] == lines[-1]
    assert len(tree["log"]) + tree["left_out"] == 1000
    assert len(tree["log"]) > 400


def test_no_report_is_larger_than_a_mebibyte() -> None:
    """However many models there are; where nothing helps there is a sentence."""
    here = ModelHere(name="m" * 1000, quant="", file_bytes=1, is_chosen=False, refusal="r" * 1000)
    huge = msgspec.structs.replace(EMPTY, config={"x": "y" * (2 * MAX_BYTES)}, models=(here,) * 2000)
    assert len(encode(huge)) <= MAX_BYTES
    with pytest.raises(TampuError, match="does not fit"):
        encode(msgspec.structs.replace(EMPTY, troubles=("x" * (2 * MAX_BYTES),)))


# ---- the file ------------------------------------------------------------------------------------


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    """Also where a file that was open to all lay before; nothing is written through a link."""
    target, out = tmp_path / "target", tmp_path / "out.json"
    target.write_text("mine")
    out.symlink_to(target)
    assert save(b"{}", str(out), "box") == out
    assert (out.read_bytes(), target.read_text(), out.is_symlink()) == (b"{}", "mine", False)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "target"]


def test_what_is_no_file_is_left_as_it_is(tmp_path: Path) -> None:
    """`sudo tampu report --output /dev/null` must not put a file there; a link to such a thing neither."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("/dev/null")
    for out in (pipe, link):
        with pytest.raises(TampuError, match="is no file to write a report to"):
            save(b"{}", str(out), "box")
    assert (pipe.is_fifo(), link.is_symlink()) == (True, True)


@pytest.mark.parametrize("where", ["none/out.json", "x" * 300, "."])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, where: str) -> None:
    """With the option that mends it; nothing is left behind."""
    with pytest.raises(TampuError, match="--output"):
        save(b"{}", str(tmp_path / where), "box")
    assert os.listdir(tmp_path) == []


def test_the_screen_says_what_is_in_it() -> None:
    """Each part that is there, in a line."""
    assert contents(EMPTY) == ("tampu 0 on Linux box 6.1",)
    full = msgspec.structs.replace(EMPTY, config={}, log=("a", "b"), troubles=("doctor: \x1b[2J",))
    said = contents(full)
    assert "the configuration" in said
    assert "the last 2 lines of the log" in said
    assert "the last 1 line of the log" in contents(msgspec.structs.replace(EMPTY, log=("a",)))
    assert said[-1] == "not there: doctor: \\x1b[2J"
