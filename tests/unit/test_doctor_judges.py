"""What each part of the doctor makes of what it saw; nothing is looked at here."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agent import __version__, crash
from agent.catalog.budget import plan
from agent.catalog.gguf import GgufHeader
from agent.catalog.placement import Resources
from agent.config import Journal, Mqtt, Tls
from agent.crash import Crash
from agent.doctor import broker, broker_verdict, build, choice, clock, daemon, door, folders
from agent.doctor.broker import Greeting, Trouble
from agent.engine.messages import PROTOCOL, Device, Hello
from agent.errors import ModelUnavailable
from agent.findings import Finding, Severity
from agent.hardware.machine import Cpu, Machine
from agent.status import EngineStatus, Memory, Status
from tests.support.model_folder import Folder

MIB = 1 << 20
MACHINE = Machine(cpu=Cpu(arch="x86_64", features=("avx2", "fma"), cpus=4, cores=4))
HELLO = Hello(
    protocol=PROTOCOL,
    pid=1,
    build="llama-cpp-python 1",
    devices=(Device("CPU", "a CPU", "cpu", 0, 0),),
    system="CPU : SSE3 = 1 | AVX2 = 1 | FMA = 1 | AVX512 = 0 | ",
    sandbox="Landlock 4: no writing, no running of programs, no TCP",
)
STATUS = Status(
    state="online",
    reason="",
    version=__version__,
    node="box",
    uptime_s=9.0,
    mqtt="connected to 127.0.0.1:1883, MQTT 5",
    model=None,
    live=0,
    running=0,
    waiting=0,
    cells_used=0,
    cells_total=0,
    tokens_per_s=0.0,
    engine_restarts=0,
    last_crash=None,
    memory=Memory(0, 0),
    engine=EngineStatus("ready", 1.0),
)


def codes(findings: list[Finding]) -> list[str]:
    return [finding.code for finding in findings]


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


# ---- the build -----------------------------------------------------------------------------------


def test_a_sound_build_needs_no_word() -> None:
    """In its sandbox, with all this CPU has."""
    assert build.judge(MACHINE, HELLO) == []
    assert build.features(HELLO) == ("SSE3", "AVX2", "FMA")


def test_an_engine_that_dies_by_sigill_was_built_elsewhere() -> None:
    """An error with the remedy."""
    finding = only(build.judge(MACHINE, build.Silence("SIGILL")))
    assert (finding.severity, finding.code) == (Severity.ERROR, "built_for_another_cpu")
    assert "./build/quickstart" in finding.remedy


def test_an_engine_that_says_nothing_is_quoted() -> None:
    """Its last words are the reason, whatever they are."""
    silence = build.Silence("exit status 1", ("Traceback", "ModuleNotFoundError: no \x1bllama_cpp"))
    finding = only(build.judge(MACHINE, silence))
    assert (finding.severity, finding.code) == (Severity.ERROR, "engine_silent")
    assert "exit status 1" in finding.what
    assert "ModuleNotFoundError" in finding.what
    assert "\x1b" not in finding.what


@pytest.mark.parametrize(
    ("sandbox", "code", "severity"),
    [
        ("none: this kernel has no Landlock", "no_sandbox", Severity.NOTE),
        ("", "no_sandbox", Severity.NOTE),
        ("none: Landlock refused (Operation not permitted)", "sandbox_refused", Severity.WARNING),
    ],
)
def test_an_engine_outside_its_sandbox_is_told(sandbox: str, code: str, severity: Severity) -> None:
    """An old kernel is a note, a refusal a warning."""
    finding = only(build.judge(MACHINE, replace(HELLO, sandbox=sandbox)))
    assert (finding.code, finding.severity) == (code, severity)


def test_a_build_that_leaves_out_what_the_cpu_has() -> None:
    """Slower than it need be; a build that does not tell is not judged."""
    finding = only(build.judge(MACHINE, replace(HELLO, system="CPU : SSE3 = 1 | AVX2 = 0 | FMA = 1 |")))
    assert (finding.code, finding.severity) == ("build_lacks_features", Severity.WARNING)
    assert "AVX2" in finding.what
    assert "FMA" not in finding.what
    assert build.judge(MACHINE, replace(HELLO, system="")) == []


def test_an_engine_of_another_release() -> None:
    """Will not be spoken to."""
    assert codes(build.judge(MACHINE, replace(HELLO, protocol=PROTOCOL + 1))) == ["engine_protocol"]


# ---- the broker ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trouble", "said", "what", "remedy"),
    [
        ("name", "", "Nobody knows", "mqtt.host"),
        ("no_listener", "", "No broker listens on 127.0.0.1:1883", "mosquitto"),
        ("unreachable", "timed out", "cannot be reached", "firewall"),
        ("silent", "closed", "does not answer as a broker", "mqtt.tls.ca"),
        ("credentials", "Not authorized", "does not let in the user 'box'", "mqtt.password_file"),
        ("refused", "Server unavailable", "Server unavailable", "log"),
        ("unreadable", "mqtt.password_file: x cannot be read (PermissionError)", "x cannot be read", "user"),
        ("tls", "[SSL: CERTIFICATE_VERIFY_FAILED] certificate is not yet valid", "not yet valid", "clock"),
        ("tls", "[SSL: CERTIFICATE_VERIFY_FAILED] Hostname mismatch", "mismatch", "mqtt.host"),
        ("tls", "[SSL: CERTIFICATE_VERIFY_FAILED] self-signed", "self-signed", "mqtt.tls.ca"),
        ("tls", "[SSL: WRONG_VERSION_NUMBER]", "WRONG_VERSION", "mqtt.port"),
    ],
)
def test_a_broker_that_does_not_let_us_in(trouble: Trouble, said: str, what: str, remedy: str) -> None:
    """An error with the next step for each kind of no."""
    settings = Mqtt(username="box")
    finding = only(broker_verdict.judge(settings, Greeting("127.0.0.1", 1883, "", trouble, said)))
    assert (finding.severity, finding.code) == (Severity.ERROR, f"broker_{trouble}")
    assert what in finding.what
    assert remedy in finding.remedy


def test_a_password_that_others_may_read(tmp_path: Path) -> None:
    """A warning; closed it is none."""
    secret = tmp_path / "password"
    secret.write_text("hunter2\n")
    settings = Mqtt(username="box", password_file=str(secret))
    greeting = Greeting(settings.host, settings.port, "5")
    secret.chmod(0o644)
    finding = only(broker_verdict.judge(settings, greeting))
    assert (finding.severity, finding.code) == (Severity.WARNING, "password_file_open")
    assert "hunter2" not in finding.what + finding.remedy
    secret.chmod(0o640)
    assert broker_verdict.judge(settings, greeting) == []


@pytest.mark.parametrize(
    ("host", "tls", "expected"),
    [
        ("192.168.1.10", None, ["broker_plain_password"]),
        ("broker.local", None, ["broker_plain_password"]),
        ("broker.local", Tls(ca="/etc/ca.pem"), []),
        ("127.0.0.1", None, []),
        ("::1", None, []),
        ("localhost", None, []),
    ],
)
def test_a_password_in_the_open(tmp_path: Path, host: str, tls: Tls | None, expected: list[str]) -> None:
    """Only where it leaves the box, and without TLS."""
    settings = Mqtt(host=host, username="box", password_file=str(tmp_path / "none"), tls=tls)
    assert codes(broker_verdict.judge(settings, Greeting(host, 1883, "5"))) == expected


# ---- folders -------------------------------------------------------------------------------------


def test_a_models_folder_that_cannot_serve(tmp_path: Path) -> None:
    """Missing, a file, empty: errors with the command that mends them."""
    missing = only(folders.judge_models(folders.look(tmp_path / "none")))
    assert (missing.severity, missing.code) == (Severity.ERROR, "models_folder_missing")
    assert f"tampu models fetch --folder {tmp_path / 'none'}" in missing.remedy
    (tmp_path / "file").touch()
    assert codes(folders.judge_models(folders.look(tmp_path / "file"))) == ["models_folder_missing"]
    assert codes(folders.judge_models(folders.look(tmp_path))) == ["models_folder_empty"]


def test_a_models_folder_with_a_model_is_fine_until_the_disk_is_full(tmp_path: Path) -> None:
    """Another model could not be fetched then."""
    (tmp_path / "some.gguf").touch()
    folder = replace(folders.look(tmp_path), free_bytes=1 << 40)
    assert (folder.num_models, folders.judge_models(folder)) == (1, [])
    finding = only(folders.judge_models(replace(folder, free_bytes=100 * MIB)))
    assert (finding.severity, finding.code) == (Severity.WARNING, "disk_space_low")
    assert "100 MiB" in finding.what


def test_a_models_folder_of_somebody_else() -> None:
    """The doctor should look with the eyes of the daemon's user."""
    folder = folders.Folder(path="/m", exists=True, is_readable=False, owner="tampu")
    finding = only(folders.judge_models(folder))
    assert (finding.severity, finding.code) == (Severity.ERROR, "models_folder_unreadable")
    assert "sudo -u tampu tampu doctor" in finding.remedy


def test_a_folder_in_a_closed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service's home has mode 0700 on Debian: the doctor of another user says so, and does not fall."""
    closed, real = tmp_path / "tampu", Path.stat

    def stat_as_a_stranger(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if closed in path.parents:
            raise PermissionError(13, "Permission denied")
        return real(path, follow_symlinks=follow_symlinks)

    (closed / "models").mkdir(parents=True)
    monkeypatch.setattr(Path, "stat", stat_as_a_stranger)
    folder = folders.look(closed / "models")
    assert (folder.exists, folder.is_readable, folder.owner) == (True, False, folders.this_user())
    assert codes(folders.judge_models(folder)) == ["models_folder_unreadable"]
    assert folders.judge_state(folder, "somebody") == []
    assert folders.model_files(closed / "models") == ()


def test_a_state_folder_must_be_the_daemons() -> None:
    """One that root made by mistake keeps nothing; root itself may write everywhere."""
    folder = folders.Folder(path="/s", exists=True, is_writable=True, owner="root")
    assert codes(folders.judge_state(folder, "tampu")) == ["state_folder_owner"]
    assert folders.judge_state(folder, "root") == []
    assert folders.judge_state(replace(folder, owner="tampu"), "root") == []
    assert folders.judge_state(folders.Folder(path="/none"), "tampu") == []
    mine = replace(folder, owner=folders.this_user(), is_writable=False)
    assert codes(folders.judge_state(mine, folders.this_user())) == ["state_folder_read_only"]


# ---- the socket ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "code", "severity"),
    [
        ("absent", "daemon_not_running", Severity.NOTE),
        ("stale", "socket_stale", Severity.NOTE),
        ("no_socket", "socket_path_taken", Severity.ERROR),
        ("forbidden", "socket_forbidden", Severity.ERROR),
        ("silent", "daemon_silent", Severity.ERROR),
    ],
)
def test_a_door_that_stays_shut(answer: Any, code: str, severity: Severity) -> None:
    """A daemon that does not run is a note; one that cannot be reached is an error."""
    finding = only(door.judge(door.Door(path="/run/t.sock", answer=answer, group="tampu"), None))
    assert (finding.code, finding.severity, bool(finding.remedy)) == (code, severity, True)


@pytest.mark.parametrize(
    ("group", "mode", "is_group_named"),
    [("tampu", 0o660, True), ("tampu", 0, True), ("root", 0o660, False), ("tampu", 0o600, False)],
)
def test_nobody_is_told_to_join_root(group: str, mode: int, is_group_named: bool) -> None:
    """The socket of a daemon that root started by hand; and one that no group may use."""
    closed = door.Door(path="/run/t.sock", answer="forbidden", owner="root", group=group, mode=mode)
    remedy = only(door.judge(closed, None)).remedy
    assert ("usermod -a -G tampu" in remedy, "api.group" in remedy) == (is_group_named, not is_group_named)


def test_who_may_use_the_socket() -> None:
    """Not everybody; and its group must be there."""
    mine = door.Door(path="/run/t.sock", answer="answers", mode=0o660)
    assert door.judge(mine, None) == []
    assert codes(door.judge(replace(mine, mode=0o666), None)) == ["socket_open"]
    assert codes(door.judge(mine, "no-such-group")) == ["socket_group_unknown"]


def test_a_socket_that_is_not_there_or_is_none(tmp_path: Path) -> None:
    """Nobody answers; a plain file is in the way; a closed folder is seen."""
    absent = door.look(str(tmp_path / "a" / "b" / "t.sock"))
    assert (absent.answer, absent.can_be_made) == ("absent", True)
    (tmp_path / "t.sock").touch()
    taken = door.look(str(tmp_path / "t.sock"))
    assert (taken.answer, taken.owner) == ("no_socket", folders.this_user())
    assert taken.mode == stat.S_IMODE((tmp_path / "t.sock").stat().st_mode)
    closed = replace(absent, can_be_made=False)
    assert codes(door.judge(closed, None)) == ["socket_folder_closed"]


# ---- a running daemon ----------------------------------------------------------------------------


def test_an_online_daemon_needs_no_word() -> None:
    """No findings."""
    assert daemon.judge(STATUS, MACHINE) == []


@pytest.mark.parametrize(
    ("changes", "code", "severity"),
    [
        (
            {"state": "degraded", "reason": "no model; fetch it", "engine": EngineStatus("failed", 1.0)},
            "daemon_failed",
            Severity.ERROR,
        ),
        ({"state": "degraded", "reason": "restarting"}, "daemon_degraded", Severity.WARNING),
        (
            {"engine_restarts": 2, "last_crash": Crash.of("exit status 3", "ready")},
            "engine_restarts",
            Severity.WARNING,
        ),
        (
            {"engine_restarts": 1, "last_crash": Crash.of("SIGABRT", "ready")},
            "llama_stopped_itself",
            Severity.WARNING,
        ),
        (
            {"engine_restarts": 1, "last_crash": Crash.of("SIGKILL, out of memory", "ready")},
            "killed_for_memory",
            Severity.WARNING,
        ),
        ({"mqtt": "disconnected: connection lost"}, "daemon_without_broker", Severity.ERROR),
        ({"memory": Memory(0, 0, pressure=1)}, "memory_pressure", Severity.WARNING),
        (
            {"state": "degraded", "reason": "out of memory", "memory": Memory(0, 0, pressure=2)},
            "memory_pressure",
            Severity.ERROR,
        ),
        (
            {"state": "degraded", "reason": "smaller", "memory": Memory(0, 0, level=1)},
            "budget_lowered",
            Severity.WARNING,
        ),
        ({"version": "0.0.1"}, "daemon_of_another_version", Severity.WARNING),
    ],
)
def test_each_trouble_of_a_daemon_is_one_finding(
    changes: dict[str, Any], code: str, severity: Severity
) -> None:
    """Said once, with a step to take."""
    finding = only(daemon.judge(replace(STATUS, **changes), MACHINE))
    assert (finding.code, finding.severity, bool(finding.remedy)) == (code, severity, True)


def test_an_earlier_death_is_good_to_know() -> None:
    """It was before this daemon's life, and stands there with its date; another one counts again."""
    kept = crash.decode(crash.encode(Crash.of("SIGKILL, out of memory", "ready", model="tiny Q4_0")))
    finding = only(daemon.judge(replace(STATUS, last_crash=kept), MACHINE))
    assert (finding.severity, finding.code) == (Severity.NOTE, "engine_died_before")
    assert "tiny Q4_0" in finding.what
    again = Crash.of("SIGKILL", "ready", before=kept)
    assert codes(daemon.judge(replace(STATUS, last_crash=again, engine_restarts=1), MACHINE)) == [
        "engine_restarts"
    ]


def test_what_the_daemons_parts_say_is_passed_on() -> None:
    """Printable, whatever stands in it."""
    said = Finding(Severity.WARNING, "journal_degraded", "The journal\x1b[2J is full.", "Make room.")
    finding = only(daemon.judge(replace(STATUS, findings=(said,)), MACHINE))
    assert finding == replace(said, what="The journal\\x1b[2J is full.")


# ---- who else is let in --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "is_exposed", "severity"),
    [
        ("127.0.0.1", False, Severity.NOTE),
        ("localhost", None, Severity.NOTE),
        ("127.0.0.1", True, Severity.WARNING),
        ("192.168.1.10", None, Severity.WARNING),
    ],
)
@pytest.mark.parametrize("username", [None, "box"])
def test_a_broker_that_lets_in_anybody(
    host: str, is_exposed: bool | None, severity: Severity, username: str | None
) -> None:
    """A warning where others can reach it; also when we have a name ourselves."""
    greeting = Greeting(host, 1883, "5", is_anonymous=True, is_exposed=is_exposed)
    finding = only(broker_verdict.judge(Mqtt(host=host, username=username), greeting))
    assert (finding.code, finding.severity) == ("broker_anonymous", severity)
    assert ("also lets in" in finding.what) == (username is not None)
    assert ("on the network" in finding.what) == (severity is Severity.WARNING)
    assert "allow_anonymous false" in finding.remedy


@pytest.mark.parametrize(("is_anonymous", "trouble"), [(False, ""), (None, ""), (True, "credentials")])
def test_a_broker_that_asks_for_names(is_anonymous: bool | None, trouble: Trouble) -> None:
    """Or that was not asked: nothing about others."""
    greeting = Greeting("192.168.1.10", 1883, "5", trouble, is_anonymous=is_anonymous)
    assert "broker_anonymous" not in codes(broker_verdict.judge(Mqtt(host="192.168.1.10"), greeting))


def test_a_stranger_knows_only_where_the_broker_is() -> None:
    """No name, no password, no certificate of ours; the authority is no secret."""
    settings = Mqtt(username="box", password_file="/p", tls=Tls(ca="/ca", cert="/c", key="/k"))
    stranger = broker.without_credentials(settings)
    assert (stranger.username, stranger.password_file, stranger.tls) == (None, None, Tls(ca="/ca"))
    assert broker.without_credentials(Mqtt()) == Mqtt()


# ---- the journal ---------------------------------------------------------------------------------


def test_a_journal_that_cannot_be_written_loses_requests() -> None:
    """It must be the daemon's; one that is kept in memory needs no folder."""
    folder = folders.Folder(path="/j", exists=True, is_writable=True, owner="root")
    judge = folders.judge_journal
    assert codes(judge(Journal(), folder, "tampu")) == ["journal_folder_owner"]
    assert judge(Journal(), folder, "root") == []
    assert judge(Journal(), replace(folder, owner="tampu"), "tampu") == []
    assert judge(Journal(mode="memory"), folder, "tampu") == []
    assert judge(Journal(), folders.Folder(path="/none"), "tampu") == []
    mine = replace(folder, owner=folders.this_user(), is_writable=False)
    assert codes(judge(Journal(), mine, folders.this_user())) == ["journal_folder_read_only"]


# ---- the clock -----------------------------------------------------------------------------------

IN_2026 = 1_780_000_000.0


def test_a_clock_that_is_kept_right() -> None:
    """Or of which nobody tells."""
    assert clock.judge(clock.Clock(IN_2026, IN_2026 - 5, True), has_tls=True) == []
    assert clock.judge(clock.Clock(IN_2026, 0.0, None), has_tls=True) == []


@pytest.mark.parametrize("seen", [clock.Clock(0.0, 0.0, None), clock.Clock(IN_2026, IN_2026 + 9e6, True)])
def test_a_clock_in_the_past(seen: clock.Clock) -> None:
    """Since 1970, or older than our own files; what that harms is said."""
    finding = only(clock.judge(seen, has_tls=False))
    assert (finding.code, finding.severity) == ("clock_in_the_past", Severity.WARNING)
    assert "TLS" in finding.what


def test_a_clock_that_nobody_sets() -> None:
    """A box without a network is made for that; with TLS it is a warning."""
    seen = clock.Clock(IN_2026, IN_2026 - 5, False)
    assert only(clock.judge(seen, has_tls=False)).severity is Severity.NOTE
    assert only(clock.judge(seen, has_tls=True)).severity is Severity.WARNING


def test_files_of_ours_tell_when_it_is_at_least(tmp_path: Path) -> None:
    """The newest of those that are there."""
    (tmp_path / "a").touch()
    os.utime(tmp_path / "a", (5.0, 5.0))
    seen = clock.look([tmp_path / "a", tmp_path / "none"])
    assert seen.newest == 5.0
    assert seen.now > IN_2026 - 9e7


# ---- the choice ----------------------------------------------------------------------------------


def test_a_refusal_is_an_error_with_its_own_code() -> None:
    """What and remedy are the two halves of the sentence."""
    finding = choice.judge_refusal(ModelUnavailable("m is missing; fetch it with: tampu models fetch"))
    assert finding == Finding(
        Severity.ERROR, "model_unavailable", "M is missing.", "Fetch it with: tampu models fetch"
    )


def test_a_gpu_that_is_asked_for_in_vain_is_told(tmp_path: Path) -> None:
    """As a warning; who leaves it to the box asks for none."""
    folder = Folder(tmp_path)
    folder.add("a", ("Q4_K_M",))
    placement = folder.place(Resources(8 << 30, 4))
    assert codes(choice.judge_gpu_wish("all", placement)) == ["gpu_wish_not_kept"]
    assert codes(choice.judge_gpu_wish(8, placement)) == ["gpu_wish_not_kept"]
    assert choice.judge_gpu_wish("auto", placement) == choice.judge_gpu_wish("off", placement) == []


def test_a_model_without_a_chat_template_is_told() -> None:
    """It is a base model; one with a template, short or long, needs no word."""
    bare = GgufHeader(version=3, metadata={}, lengths={}, tensors=(), alignment=32, data_offset=0)
    assert codes(choice.judge(bare, MACHINE)) == ["chat_template_missing"]
    assert choice.judge(replace(bare, metadata={choice.TEMPLATE_KEY: "{{ x }}"}), MACHINE) == []
    assert choice.judge(replace(bare, lengths={choice.TEMPLATE_KEY: 9000}), MACHINE) == []
    assert choice.judge(None, MACHINE) == []


def test_the_parts_of_the_memory_add_up() -> None:
    """Others, hard, hot file and free are all there is; a cgroup's bound is not ours to use."""
    budget = plan(400 * MIB, 900 * MIB, 94 * MIB, 0)
    parts = choice.room(1024 * MIB, Resources(900 * MIB, 4), budget)
    assert parts.others_bytes == 124 * MIB
    assert parts.hard_bytes + parts.hot_file_bytes + parts.free_bytes == 900 * MIB
    bound = choice.room(1024 * MIB, Resources(900 * MIB, 4, cgroup_bytes=500 * MIB), None)
    assert (bound.others_bytes, bound.free_bytes, bound.hard_bytes) == (524 * MIB, 500 * MIB, 0)
