"""The configuration: every key has a default, and every wrong thing is named with what is allowed."""

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent import config, config_file, places
from agent.config import ClientRules, Config, Engine, Mqtt, Profile, Tls
from agent.errors import ConfigError


@pytest.fixture(autouse=True)
def _own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable and no file of the machine the test runs on."""
    for name in list(os.environ):
        if name.startswith("TAMPU_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(places, "config_candidates", lambda: (tmp_path / "usual" / "tampu.yaml",))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that is named, not yet written."""
    return tmp_path / "tampu.yaml"


def read(file: Path, text: str, *overrides: str) -> Config:
    file.write_text(text, encoding="utf-8")
    return config_file.load(str(file), overrides)


def refusal(file: Path, text: str, *overrides: str) -> str:
    """The sentence a configuration is refused with."""
    with pytest.raises(ConfigError) as caught:
        read(file, text, *overrides)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


# ---- what is taken -------------------------------------------------------------------------------


def test_every_key_has_a_default() -> None:
    """Without any file there is a configuration, with the places of this user filled in."""
    found = config_file.load()
    assert found.mqtt == Mqtt()
    assert found.api.socket.endswith("tampu.sock")
    assert found.models.folder.endswith("models")
    assert found.node


def test_a_file_says_only_what_differs(file: Path) -> None:
    """All else keeps its default."""
    found = read(file, "node: attic\nmqtt: {host: broker, tls: {ca: ca.pem}}\nengine: {n_ctx: 512}\n")
    assert found.node == "attic"
    assert (found.mqtt.host, found.mqtt.port, found.mqtt.tls) == ("broker", 1883, Tls(ca="ca.pem"))
    assert found.engine == Engine(n_ctx=512)


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "mqtt:\n", "mqtt:\n  # host: x\nprofiles:\nlimits:\n", "---\n"]
)
def test_sections_whose_keys_are_all_commented_out_are_the_default(file: Path, text: str) -> None:
    """YAML reads them as null."""
    assert read(file, text) == config_file.load()


@pytest.mark.parametrize(
    ("text", "count"),
    [("auto", None), ("400M", 400 << 20), ("1.5G", 3 << 29), ("2048K", 2 << 20), ("400000000", 400_000_000)],
)
def test_memory_is_auto_a_size_or_bytes(file: Path, text: str, count: int | None) -> None:
    """Units are powers of two, as in systemd's MemoryMax."""
    assert read(file, f"engine: {{memory: {text}}}").engine.memory_bytes == count


def test_idle_times_are_a_section_of_the_engines(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with its own default."""
    monkeypatch.setenv("TAMPU_ENGINE__IDLE__PROCESS_S", "0")
    idle = read(file, "engine: {idle: {context_s: 7}}").engine.idle
    assert (idle.context_s, idle.process_s) == (7, 0)
    assert (Engine().idle.context_s, Engine().idle.process_s) == (300, 1800)


@pytest.mark.parametrize("word", ["on", "off", '"on"', "'off'"])
def test_on_and_off_are_words(file: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    """Without quotes too, though YAML reads them as true and false; from wherever they come."""
    bare = word.strip("\"'")
    assert read(file, f"engine: {{repack: {word}}}").engine.repack == bare
    assert read(file, "", f"engine.repack={word}").engine.repack == bare
    monkeypatch.setenv("TAMPU_ENGINE__REPACK", word)
    assert read(file, "engine: {gpu: off}").engine == Engine(gpu="off", repack=bare)
    assert read(file, "engine: {gpu: 0}").engine.gpu == "off"


@pytest.mark.parametrize("word", ["off", '"off"', "'off'"])
def test_the_journal_can_be_switched_off(file: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    """`off` is a word here as well, from wherever it comes."""
    assert read(file, f"journal: {{mode: {word}}}").journal.mode == "off"
    assert read(file, "journal: {mode: disk}", f"journal.mode={word}").journal.mode == "off"
    monkeypatch.setenv("TAMPU_JOURNAL__MODE", word)
    assert read(file, "").journal.mode == "off"


def test_clients_have_rules(file: Path) -> None:
    """By name, or `*`; what is shown keeps their order and can be read again."""
    text = (
        "profiles: {a: {system: x}}\nclients: {z: {profiles: [a], own_system: false}, '*': {per_client: 0}}"
    )
    found = read(file, text)
    assert found.clients["z"] == ClientRules(profiles=("a",), own_system=False)
    shown = config.to_tree(found)
    assert list(shown["clients"]) == ["z", "*"]
    assert shown["clients"]["*"]["per_client"] == 0
    assert config_file.from_tree(shown, "shown") == found
    assert read(file, "", "clients.me.max_tokens=7").clients["me"].max_tokens == 7


def test_profiles_have_free_names(file: Path) -> None:
    """A profile is a named system prompt."""
    found = read(file, "profiles: {greenhouse: {system: You know plants.}}")
    assert found.profiles == {"greenhouse": Profile(system="You know plants.")}


def test_the_environment_wins_over_the_file_and_set_over_both(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nearer to the command line, the stronger."""
    monkeypatch.setenv("TAMPU_MQTT__HOST", "from-environment")
    monkeypatch.setenv("TAMPU_MQTT__PORT", "2000")
    monkeypatch.setenv("TAMPU_TEST_ANYTHING", "is not ours")
    found = read(file, "mqtt: {host: from-file, port: 1, username: from-file}", "mqtt.port=3000")
    assert (found.mqtt.username, found.mqtt.host, found.mqtt.port) == ("from-file", "from-environment", 3000)


@pytest.mark.parametrize("name", ["TAMPU_TARGET", "TAMPU_CMAKE_ARGS", "TAMPU_PYTHON"])
def test_what_the_build_scripts_read_is_no_override(
    file: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """They call `tampu` with the variables they were called with."""
    monkeypatch.setenv(name, "vulkan")
    assert read(file, "node: box").node == "box"


def test_overrides_reach_into_sections_that_are_not_there(file: Path) -> None:
    """Also into a section that is written and empty."""
    found = read(file, "mqtt:\n", "mqtt.host=x", "mqtt.tls.ca=ca.pem", "profiles.attic.system=You know dust.")
    assert (found.mqtt.host, found.mqtt.tls) == ("x", Tls(ca="ca.pem"))
    assert found.profiles["attic"].system == "You know dust."


def test_override_values_are_yaml(file: Path) -> None:
    """A list or a null can be said on the command line."""
    found = read(file, "api: {group: users}", "mqtt.reply_prefixes=[a/b, c]", "api.group=null")
    assert found.mqtt.reply_prefixes == ("a/b", "c")
    assert found.api.group is None


def test_the_named_file_wins_over_the_variable_and_that_over_the_usual_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First match wins; nothing is merged."""
    usual, variable, named = tmp_path / "usual" / "tampu.yaml", tmp_path / "b.yaml", tmp_path / "c.yaml"
    usual.parent.mkdir()
    for path in (usual, variable, named):
        path.write_text(f"node: {path.parent.name if path == usual else path.stem}\n")
    assert config_file.load().node == "usual"
    monkeypatch.setenv("TAMPU_CONFIG", str(variable))
    assert config_file.load().node == "b"
    assert config_file.load(str(named)).node == "c"


def test_a_usual_place_this_user_may_not_look_into_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """/etc/tampu may be closed to those who only want to ask."""

    def is_file(_: Path) -> bool:
        raise PermissionError

    monkeypatch.setattr(Path, "is_file", is_file)
    assert places.find_config_file(None) is None


def test_a_user_without_a_home_has_defaults_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers run under ids that have no name."""

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert config_file.load().models.folder == "/nonexistent/.local/state/tampu/models"


def test_what_is_shown_can_be_read_again(file: Path) -> None:
    """`tampu config show` prints a configuration."""
    found = read(file, "node: attic\nmqtt: {tls: {ca: x}}\nprofiles: {a: {system: b}}\n")
    assert config_file.from_tree(config.to_tree(found), "shown") == found


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("moqtt: {}", "moqtt: unknown key; did you mean mqtt?"),
        ("mqtt: {prot: 1}", "mqtt.prot: unknown key; did you mean port?"),
        ("mqtt: {tls: {certt: x}}", "mqtt.tls.certt: unknown key; did you mean cert?"),
        ("log: {zzz: 1}", "log.zzz: unknown key; allowed here: level, prompts"),
        ("profiles: {attic: {sistem: x}}", "profiles.attic.sistem: unknown key; did you mean system?"),
        (
            "profiles: {a: {system: x}, b: {system: 5}}",
            "profiles.b.system: 5 is not allowed; expected str, got int",
        ),
        ("profiles: {attic: {}}", "profiles.attic.system: is missing; it has no default"),
        ("profiles: {attic: }", "profiles.attic: None is not allowed; expected object, got null"),
        ("profiles: {a b: {system: x}}", "profiles: 'a b' is not allowed as a key; expected 1 to 64 of A-Z"),
        ("1: 2", "the file: 1 is not allowed as a key"),
        ("mqtt: {1: 2}", "mqtt: 1 is not allowed as a key"),
        ("mqtt: {port: x}", "mqtt.port: 'x' is not allowed; expected int, got str"),
        ("mqtt: {port: 99999}", "mqtt.port: 99999 is not allowed; expected int <= 65535"),
        ("mqtt: {port: 0}", "mqtt.port: 0 is not allowed; expected int >= 1"),
        ("mqtt: {port: null}", "mqtt.port: None is not allowed; expected int, got null"),
        ("mqtt: {port: true}", "mqtt.port: True is not allowed; expected int, got bool"),
        ("mqtt: {host: ''}", "mqtt.host: '' is not allowed; expected str of length >= 1"),
        ("mqtt: []", "mqtt: [] is not allowed; expected object, got array"),
        ("mqtt: 5", "mqtt: 5 is not allowed; expected object, got int"),
        ("mqtt: {reply_prefixes: [ok, 'a b']}", "mqtt.reply_prefixes[1]: 'a b' is not allowed"),
        ("node: 2026-01-01", "node: datetime.date(2026, 1, 1) is not allowed; expected str, got date"),
        ("node: a/b", "node: 'a/b' is not allowed"),
        ("node: pool", "node: 'pool' is not allowed; it names something else on the wire"),
        ("node: ..", "node: '..' is not allowed"),
        (
            "log: {level: loud}",
            "log.level: 'loud' is not allowed; expected debug or info or warning or error",
        ),
        ("engine: {n_ctx: big}", "engine.n_ctx: 'big' is not allowed; expected a number or auto"),
        ("engine: {n_ctx: 5}", "engine.n_ctx: 5 is not allowed; expected int >= 256"),
        (
            "engine: {memory: big}",
            "engine.memory: 'big' is not allowed; expected auto, or a size like 400M or 1.5G",
        ),
        ("engine: {memory: 400}", "engine.memory: 400 is not allowed; expected int >= 1048576"),
        ("engine: {memory: 1.5}", "engine.memory: 1.5 is not allowed; expected int | str, got float"),
        (
            "models: {variant: q4_0}",
            "models.variant: 'q4_0' is not allowed; expected auto, or a quant like Q4_K_M",
        ),
        ("engine: {gpu: on}", "engine.gpu: 'on' is not allowed; expected a number or auto or all or off"),
        ("engine: {idle: {contxt_s: 1}}", "engine.idle.contxt_s: unknown key; did you mean context_s?"),
        ("engine: {idle: {process_s: -1}}", "engine.idle.process_s: -1 is not allowed; expected float >= 0"),
        ("limits: {ttl_s: .nan}", "limits.ttl_s: nan is not allowed; expected float > 0"),
        ("limits: {ttl_s: .inf}", "limits.ttl_s: inf is not allowed; expected float <= 86400"),
        ("mqtt: {tls: {cert: c.pem}}", "mqtt.tls: cert and key must be given together"),
        ("mqtt: {tls: {key: k.pem}}", "mqtt.tls: cert and key must be given together"),
        ("mqtt: {protocol: 4}", "mqtt.protocol: 4 is not allowed; expected auto or 5 or 3.1.1"),
        ("mqtt: {tls: {dates: never}}", "mqtt.tls.dates: 'never' is not allowed; expected auto or checked"),
        ("mqtt: {operators: all}", "mqtt.operators: 'all' is not allowed; expected none or read or write"),
        ("mqtt: {pools: [a b]}", "mqtt.pools[0]: 'a b' is not allowed; expected 1 to 64 of A-Z a-z 0-9"),
        ("mqtt: {pools: [a, ..]}", "mqtt.pools[1]: '..' is not allowed; it is no name"),
        ("mqtt: {pools: [a, b, a]}", "mqtt.pools[2]: 'a' is there twice"),
        (
            "clients: {a/b: {}}",
            "clients: 'a/b' is not allowed as a key; expected 1 to 64 of A-Z a-z 0-9 _ . -",
        ),
        (
            "clients: {'**': {}}",
            "clients: '**' is not allowed as a key; expected 1 to 64 of A-Z a-z 0-9 _ . -, or *",
        ),
        ("clients: {7: {}}", "clients: 7 is not allowed as a key"),
        ("clients: {..: {}}", "clients: '..' is not allowed as a key; no client can have it"),
        ("clients: {me: {max_tokns: 5}}", "clients.me.max_tokns: unknown key; did you mean max_tokens?"),
        (
            "clients: {me: {own: 5}}",
            "clients.me.own: unknown key; allowed here: profiles, own_system, max_tok",
        ),
        ("clients: {a: {}, b: {priority: 10}}", "clients.b.priority: 10 is not allowed; expected int <= 9"),
        ("clients: {me: {own_system: 0}}", "clients.me.own_system: 0 is not allowed; expected bool, got int"),
        (
            "clients: {me: {requests_per_minute: 0}}",
            "clients.me.requests_per_minute: 0 is not allowed; expected",
        ),
        ("clients: {me: }", "clients.me: None is not allowed; expected object, got null"),
        ("clients: {me: 5}", "clients.me: 5 is not allowed; expected object, got int"),
        ("clients: {'*': {sessions: -1}}", "clients.*.sessions: -1 is not allowed; expected int >= 0"),
        ("clients: [me]", "clients: ['me'] is not allowed; expected object, got array"),
        (
            "clients: {me: {profiles: attic}}",
            "clients.me.profiles: 'attic' is not allowed; expected array, got",
        ),
        (
            "clients: {me: {profiles: [a b]}}",
            "clients.me.profiles[0]: 'a b' is not allowed; expected 1 to 64",
        ),
        (
            "clients: {me: {profiles: [x]}}",
            "clients.me.profiles[0]: 'x' is not one of profiles; there are: none",
        ),
        ("'x - at `$.mqtt.port`': 1", "unknown key; allowed here: node, mqtt"),
        ("journal: {mode: on}", "journal.mode: True is not allowed; expected str, got bool"),
        ("journal: {mode: tape}", "journal.mode: 'tape' is not allowed; expected disk or memory or off"),
        (f"mqtt: {{port: 0x{'f' * 5000}}}", "mqtt.port: this int is not allowed; expected int <= 65535"),
        (f"api: {{socket: /{'x' * 103}}}", "is longer than 103 bytes"),
        (f"api: {{socket: /{'ü' * 60}}}", "is longer than 103 bytes"),
        ('api: {socket: "a\\0b"}', "api.socket: 'a\\x00b' is not allowed; expected text without NUL"),
        ('mqtt: {host: "\\ud800"}', "'\\ud800' is not allowed; expected text without NUL or half characters"),
        ("[a, b]", "must hold keys and values, not a list"),
        ("just text", "must hold keys and values, not a str"),
        (
            "node: box\nmqtt: [a",
            "not valid YAML: while parsing a flow sequence (line 2, column 7),"
            " expected ',' or ']', but got '<stream end>' (line 2, column 9)",
        ),
        ("\tmqtt: x", "found character '\\t' that cannot start any token (line 1, column 1)"),
        ("node: box: x", "not valid YAML: mapping values are not allowed here (line 1, column 10)"),
        ("node: 2026-99-99", "not valid YAML: month must be in 1..12"),
        ("node: !!int x", "not valid YAML"),
        ("node: !!bool x", "not valid YAML"),
        ("node: !!timestamp x", "not valid YAML"),
        ("node: !!python/object/apply:os.system [x]", "not valid YAML"),
        ("[" * 50_000, "not valid YAML"),
        ("--- 1\n--- 2\n", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused_with_file_key_value_and_what_is_allowed(
    file: Path, text: str, sentence: str
) -> None:
    """One sentence a person can act on."""
    said = refusal(file, text)
    assert said.startswith(f"{file}: ")
    assert sentence in said


def test_a_value_of_any_size_makes_a_short_sentence(file: Path) -> None:
    """The sentence names the value and does not repeat it whole."""
    assert len(refusal(file, f"profiles: {{a: {{system: {'x' * 40_000}}}}}")) < 400
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n"
    for inner, outer in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{outer}: &{outer} [{','.join([f'*{inner}'] * 9)}]\n"
    assert len(refusal(file, bomb + "mqtt: *i\n")) < 400


def test_a_tree_that_holds_itself_is_refused(file: Path) -> None:
    """YAML's aliases can make one."""
    refusal(file, "profiles: &a {b: *a}")
    refusal(file, "mqtt: &a {tls: *a}")


def test_a_file_that_is_named_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By option or by variable; a folder is no file."""
    missing = tmp_path / "missing.yaml"
    with pytest.raises(ConfigError, match=f"{missing}: no such configuration file"):
        config_file.load(str(missing))
    monkeypatch.setenv("TAMPU_CONFIG", str(tmp_path))
    with pytest.raises(ConfigError, match="no such configuration file"):
        config_file.load()


def test_a_file_in_another_encoding_is_refused(file: Path) -> None:
    """Not guessed."""
    file.write_bytes("node: Küche".encode("latin-1"))
    with pytest.raises(ConfigError, match="not valid YAML"):
        config_file.load(str(file))


def test_a_wrong_override_is_blamed_on_its_source_not_on_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking for the mistake in the file would be in vain."""
    assert refusal(file, "node: ok", "mqtt.port=x").startswith("--set: mqtt.port: 'x' is not allowed")
    assert refusal(file, "node: ok", "mqtt={prot: 1}").startswith("--set: mqtt.prot: unknown key")
    monkeypatch.setenv("TAMPU_MQTT__PORT", "99999")
    assert refusal(file, "node: ok").startswith("$TAMPU_MQTT__PORT: mqtt.port: 99999 is not allowed")
    monkeypatch.setenv("TAMPU_MQTT__PORT", "1883")
    monkeypatch.setenv("TAMPU_MOQTT", "x")
    assert refusal(file, "node: ok").startswith("$TAMPU_MOQTT: moqtt: unknown key; did you mean mqtt?")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("mqtt.port", "--set mqtt.port: must be key=value"),
        ("=5", "must be key=value"),
        ("mqtt.port=[", "--set: '[': not valid YAML"),
        ("mqtt.port=2026-99-99", "not valid YAML"),
        ("node.x=5", "--set: node.x: node is a value, not a section"),
        ("mqtt.host.x.y=5", "--set: mqtt.host.x.y: mqtt.host is a value, not a section"),
        ("mqtt..host=5", "unknown key"),
        ("mqtt=5", "--set: mqtt: 5 is not allowed"),
    ],
)
def test_a_wrong_override_is_refused(file: Path, override: str, sentence: str) -> None:
    """With the option in front."""
    assert sentence in refusal(file, "node: ok\nmqtt: {host: x}", override)


def test_a_secret_is_read_from_its_file_and_never_said(tmp_path: Path) -> None:
    """The first line is the secret; an error names the file alone."""
    secret = tmp_path / "password"
    secret.write_text("s3cret\nnote\n")
    assert config_file.read_secret(str(secret)) == "s3cret"
    secret.write_bytes(b"s3cret\xff")
    for path in (str(secret), str(tmp_path / "missing"), "nul\0"):
        with pytest.raises(ConfigError, match=r"^mqtt.password_file: .* cannot be read") as caught:
            config_file.read_secret(path)
        assert "s3cret" not in str(caught.value)


def test_a_bare_name_is_one_of_systemds_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the service has it; a path is read as it stands, and where there is none the error says so."""
    (tmp_path / "mqtt-password").write_text("s3cret\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert config_file.read_secret("mqtt-password") == "s3cret"
    assert config_file.read_secret(str(tmp_path / "mqtt-password")) == "s3cret"
    for path in ("none", "../mqtt-password", "..", ""):
        with pytest.raises(ConfigError, match="cannot be read"):
            config_file.read_secret(path)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    monkeypatch.chdir(tmp_path.parent)
    with pytest.raises(ConfigError, match="LoadCredential"):
        config_file.read_secret("mqtt-password")


# ---- anything at all -----------------------------------------------------------------------------

NAMES = st.sampled_from(
    [
        *("node", "mqtt", "api", "models", "engine", "profiles", "limits", "log", "clients", "journal"),
        *("pools", "protocol", "operators", "mode", "own_system", "sessions", "requests_per_minute"),
        *("host", "port", "tls", "ca", "cert", "reply_prefixes", "socket", "group"),
        *("n_ctx", "kv_type", "system", "level", "ttl_s", "queue", "memory", "idle", "context_s"),
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=3)
    | st.dates()
    | st.sampled_from(["auto", "f16", "400M", ".", "pool", "a\0b", "\ud800"])
)
KEYS = NAMES | st.text(max_size=5) | st.integers() | st.none() | st.tuples(st.integers())
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.sets(st.text(max_size=3), max_size=3)
    ),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, TREES, max_size=5))
def test_any_tree_is_a_configuration_or_a_config_error(tree: dict[str, Any]) -> None:
    """Nothing else."""
    with contextlib.suppress(ConfigError):
        config_file.from_tree(tree, "anything")


@given(st.text(max_size=60) | TREES.map(lambda tree: yaml.dump(tree)))
def test_any_text_is_yaml_or_a_config_error(text: str) -> None:
    """Whatever a value given on the command line looks like."""
    with contextlib.suppress(ConfigError):
        config_file.load(None, [f"mqtt.host={text}", f"profiles={text}"])


def test_a_key_that_is_there_twice_is_refused(file: Path) -> None:
    """YAML itself would let the second section silently replace the first."""
    file.write_text("mqtt: {port: 1884}\nnode: a\nmqtt: {host: b}\n")
    with pytest.raises(ConfigError, match=r"'mqtt' is there twice \(line 3, column 1\)"):
        config_file.load(str(file))


def test_files_that_are_named_can_be_looked_at(file: Path, tmp_path: Path) -> None:
    """`tampu config check` says what the daemon would stumble over."""
    file.write_text(f"mqtt: {{password_file: {tmp_path}/none}}")
    with pytest.raises(ConfigError, match=r"mqtt.password_file: .*none cannot be read"):
        config_file.check_files(config_file.load(str(file)))
    (tmp_path / "none").write_text("s3cret")
    config_file.check_files(config_file.load(str(file)))
