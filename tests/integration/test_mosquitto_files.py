"""The mosquitto files in systemd/mosquitto as they are: only paths, ports and addresses are put in."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.support.certificates import Authority
from tests.support.device import Device, Login
from tests.support.processes import Daemon, Mosquitto, free_port, wait_until

FILES = Path(__file__).parents[2] / "systemd" / "mosquitto"
NODE = "greenhouse-1"
BASE = f"tampu/v1/{NODE}"
# The bridge's file says so.
DAEMONS_PASSWORD = "CHANGE-ME"
USERS = ("tampu", "ann", "bob", "operator", "homeassistant")


class Central:
    """A mosquitto under tampu.conf and tampu.acl, included as Debian's mosquitto.conf includes them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.authority = Authority(folder / "authority")
        self.port, self.tls_port, self.cert_port = free_port(), free_port(), free_port()
        own = folder / "tampu"
        own.mkdir()
        server = self.authority.issue("server")
        for source, name in (
            (self.authority.ca, "ca.crt"),
            (server.cert, "server.crt"),
            (server.key, "server.key"),
        ):
            shutil.copy(source, own / name)
        shutil.copy(FILES / "tampu.acl", own)
        self._add_users(own / "passwords")
        text = (FILES / "tampu.conf").read_text().replace("/etc/mosquitto/tampu", str(own))
        for there, here in ((1883, self.port), (8883, self.tls_port), (8884, self.cert_port)):
            assert f"listener {there}" in text
            text = text.replace(f"listener {there}", f"listener {here}")
        self.mosquitto = Mosquitto.including(folder, text, self.port)

    def _add_users(self, passwords: Path) -> None:
        program = shutil.which("mosquitto_passwd")
        assert program, "mosquitto_passwd is not installed; run: sudo apt-get install mosquitto"
        passwords.touch()
        for user in USERS:
            subprocess.run([program, "-b", str(passwords), user, self.password(user)], check=True, timeout=20)

    @staticmethod
    def password(user: str) -> str:
        return DAEMONS_PASSWORD if user == "tampu" else f"of-{user}"

    def device(self, user: str, *filters: str) -> Device:
        """Somebody who knows a name and its password."""
        return Device(self.port, *filters, login=Login(user, self.password(user)))


@pytest.fixture
def central(tmp_path: Path) -> Iterator[Central]:
    made = Central(tmp_path / "central")
    made.mosquitto.start()
    yield made
    made.mosquitto.stop()


@pytest.fixture
def box(central: Central, start_daemon: Callable[..., Daemon], tmp_path: Path) -> Daemon:
    """A daemon at the central broker, over TLS, under its own user."""
    secret = tmp_path / "password"
    secret.write_text(DAEMONS_PASSWORD)
    secret.chmod(0o600)
    login = {"username": "tampu", "password_file": str(secret), "tls": {"ca": str(central.authority.ca)}}
    return start_daemon(node=NODE, mqtt={"port": central.tls_port, **login})


def settle(device: Device, topic: str) -> None:
    """Return when everything that was sent to this device before has reached it."""
    marker = f"settled-{time.monotonic_ns()}"
    device.publish(topic, {"id": marker, "prompt": "hello"})
    device.wait_end(marker)


def test_a_device_asks_and_is_answered_in_its_own_name(central: Central, box: Daemon) -> None:
    """And sees what boxes say of themselves."""
    with central.device("ann", f"{BASE}/response/ann/#", "tampu/v1/+/status", "tampu/v1/+/info") as ann:
        ann.publish(f"{BASE}/request/ann", {"id": "r1", "prompt": "hello"})
        assert ann.wait_end("r1")["type"] == "done"
        ann.wait_frame("/status", state="online")
        ann.wait_frame("/info", v=1)


def test_a_device_hears_nothing_of_anothers(central: Central, box: Daemon) -> None:
    """Whatever it subscribes to: neither questions nor answers."""
    with central.device("bob", "#", f"{BASE}/response/#", f"{BASE}/request/#") as bob:
        with central.device("ann", f"{BASE}/response/ann/#") as ann:
            ann.publish(f"{BASE}/request/ann", {"id": "secret", "prompt": "hello"})
            ann.wait_end("secret")
        settle(bob, f"{BASE}/request/bob")
        topics = {message.topic for message in bob.messages}
    assert any("/response/bob/" in topic for topic in topics)
    assert not any("ann" in topic for topic in topics)


def test_a_device_cannot_speak_in_anothers_name(
    central: Central, start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """No request, cancel or get for another, and no answer in the box's place."""
    secret = tmp_path / "password"
    secret.write_text(DAEMONS_PASSWORD)
    secret.chmod(0o600)
    login = {"username": "tampu", "password_file": str(secret)}
    start_daemon(node=NODE, step_s=0.05, mqtt={"port": central.port, **login})
    mine = f"{BASE}/response/ann/#"
    with central.device("ann", mine) as ann, central.device("bob", f"{BASE}/response/bob/#") as bob:
        ann.publish(f"{BASE}/request/ann", {"id": "r1", "prompt": "a LONG story", "max_tokens": 40})
        ann.wait_frame(type="delta")
        bob.publish(f"{BASE}/request/ann", {"id": "forged", "prompt": "hello"})
        bob.publish(f"{BASE}/cancel/ann", {"all": True})
        bob.publish(f"{BASE}/get/ann", {"id": "r1"})
        bob.publish(f"{BASE}/response/ann/r1", {"id": "r1", "type": "done", "text": "forged"})
        bob.publish(f"{BASE}/status", {"state": "offline"}, retain=True)
        settle(bob, f"{BASE}/request/bob")
        done = ann.wait_end("r1")
        settle(ann, f"{BASE}/request/ann")
        ids = {frame["id"] for frame in ann.frames() if not frame["id"].startswith("settled")}
    assert (done["finish_reason"], done["text"] == "forged") == ("length", False)
    assert ids == {"r1"}
    with central.device("ann", f"{BASE}/status") as later:
        assert later.wait_frame("/status")["state"] == "online"


def test_pool_requests_are_held_to_the_clients_name_too(central: Central) -> None:
    """What a member of the pool would be dealt, and where it would answer."""
    pool = "tampu/v1/pool/herbs"
    with (
        central.device("tampu", f"$share/tampu/{pool}/request/+") as member,
        central.device("ann", f"{pool}/response/ann/#") as ann,
        central.device("bob", f"{pool}/response/#") as bob,
    ):
        bob.publish(f"{pool}/request/ann", {"id": "forged"})
        ann.publish(f"{pool}/request/ann", {"id": "r1"})
        member.wait_frame("/request/", id="r1")
        member.publish(f"{pool}/response/ann/r1", {"id": "r1", "type": "done"})
        member.publish(f"{pool}/response/bob/r2", {"id": "r2", "type": "done"})
        ann.wait_end("r1")
        bob.wait_end("r2")
        assert {frame["id"] for frame in member.frames("/request/")} == {"r1"}
        assert {frame["id"] for frame in bob.frames()} == {"r2"}


def test_who_joins_a_pools_share_hears_nothing_and_the_requests_are_lost(central: Central) -> None:
    """What the file's comment warns of: mosquitto asks no acl_file about subscriptions."""
    pool = "tampu/v1/pool/herbs"
    shared = f"$share/tampu/{pool}/request/+"
    with central.device("tampu", shared) as member, central.device("bob", shared) as bob:
        with central.device("ann", f"{pool}/response/ann/#") as ann:
            for number in range(10):
                ann.publish(f"{pool}/request/ann", {"id": f"r{number}"})
        wait_until(lambda: len(member.messages) == 5, "its share, which is half")
        assert not bob.messages


def test_operators_alone_have_the_ctl_topics(central: Central) -> None:
    """To ask, and to hear what was answered."""
    ask, answer = f"{BASE}/ctl/request/info", f"{BASE}/ctl/response/info/r1"
    with (
        central.device("tampu", f"{BASE}/ctl/request/+") as box,
        central.device("operator", f"{BASE}/ctl/response/#") as operator,
        central.device("ann", f"{BASE}/ctl/#", f"{BASE}/response/ann/#") as ann,
    ):
        ann.publish(ask, {"id": "forged"})
        operator.publish(ask, {"id": "r1"})
        box.wait_frame("/ctl/request/", id="r1")
        box.publish(answer, {"id": "r1", "type": "done"})
        operator.wait_frame("/ctl/response/", id="r1")
        assert len(box.messages) == 1
        box.publish(f"{BASE}/response/ann/x", {"id": "x", "type": "done"})
        ann.wait_end("x")
        assert {message.topic for message in ann.messages} == {f"{BASE}/response/ann/x"}


def test_home_assistant_finds_boxes_and_asks_as_a_client(central: Central, box: Daemon) -> None:
    """Discovery is the box's to write and Home Assistant's to read; its status the other way round."""
    config = f"homeassistant/device/{NODE}/config"
    mine = f"{BASE}/response/homeassistant/#"
    with (
        central.device("tampu", "homeassistant/status") as daemon,
        central.device("homeassistant", "homeassistant/#", f"{BASE}/status", mine) as home,
        central.device("ann", "homeassistant/#") as ann,
    ):
        ann.publish(config, {"id": "forged"})
        daemon.publish(config, {"id": "real"})
        home.wait_frame("/config", id="real")
        home.publish("homeassistant/status", "online")
        wait_until(lambda: daemon.messages, "Home Assistant's status")
        home.wait_frame(f"{BASE}/status", state="online")
        home.publish(f"{BASE}/request/homeassistant", {"id": "r1", "prompt": "hello"})
        assert home.wait_end("r1")["type"] == "done"
        assert len(home.frames("/config")) == 1
        assert not ann.messages


def connack(port: int, login: Login | None) -> str:
    """What the broker says to a CONNECT."""
    said: list[str] = []
    client = mqtt.Client(
        CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5, reconnect_on_failure=False
    )
    client.on_connect = lambda _client, _data, _flags, reason, _properties: said.append(str(reason))
    if login:
        client.username_pw_set(login.user, login.password)
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        return str(wait_until(lambda: said and said[0], "a CONNACK"))
    finally:
        client.disconnect()
        client.loop_stop()


@pytest.mark.parametrize(
    ("login", "expected"),
    [
        (None, "Not authorized"),
        (Login("ann", "wrong"), "Not authorized"),
        (Login("nobody", "of-nobody"), "Not authorized"),
        (Login("ann", "of-ann"), "Success"),
    ],
)
def test_nobody_gets_in_without_a_name_and_its_password(
    central: Central, login: Login | None, expected: str
) -> None:
    """Neither anonymous clients nor wrong passwords."""
    assert connack(central.port, login) == expected


def test_a_client_certificate_is_a_name(central: Central, start_daemon: Callable[..., Daemon]) -> None:
    """The daemon needs no password then, and has the rights of the certificate's name."""
    ours = central.authority.issue("tampu")
    tls = {"ca": str(central.authority.ca), "cert": str(ours.cert), "key": str(ours.key)}
    start_daemon(node=NODE, mqtt={"port": central.cert_port, "tls": tls})
    with central.device("ann", f"{BASE}/response/ann/#") as ann:
        ann.publish(f"{BASE}/request/ann", {"id": "r1", "prompt": "hello"})
        assert ann.wait_end("r1")["type"] == "done"


def test_the_password_of_a_daemon_that_everybody_may_read_is_said_once(
    central: Central, start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    """In the log, with the command that closes the file, and without what stands in it."""
    secret = tmp_path / "password"
    secret.write_text(DAEMONS_PASSWORD)
    secret.chmod(0o644)
    daemon = start_daemon(
        node=NODE, mqtt={"port": central.port, "username": "tampu", "password_file": str(secret)}
    )
    central.mosquitto.stop()
    central.mosquitto.start()
    wait_until(lambda: daemon.log.read_text().count("connected to the broker with") == 2, "the second time")
    assert daemon.log.read_text().count(f"chmod o-rwx {secret}") == 1
    assert DAEMONS_PASSWORD not in daemon.log.read_text()


def own_broker(central: Central, folder: Path, version: str = "mqttv50") -> Mosquitto:
    """A box's own broker, bridged to the central one by bridge.conf."""
    folder.mkdir()
    text = (FILES / "bridge.conf").read_text()
    for there, here in (
        ("broker.example.org:8883", f"127.0.0.1:{central.tls_port}"),
        ("/etc/mosquitto/tampu", str(central.authority.folder)),
        ("bridge_protocol_version mqttv50", f"bridge_protocol_version {version}"),
    ):
        assert there in text
        text = text.replace(there, here)
    port = free_port()
    open_to_this_machine = f"listener {port} 127.0.0.1\nallow_anonymous true\n"
    return Mosquitto.including(folder, text, port, main=open_to_this_machine)


def is_line(ann: Device, state: bytes) -> bool:
    """What the bridge, or the central broker in its place, said last."""
    said = [message.payload for message in ann.messages if message.topic == f"{BASE}/bridge"]
    return said[-1:] == [state]


def test_a_bridge_carries_prompts_down_and_answers_up(
    central: Central, tmp_path: Path, start_daemon: Callable[..., Daemon]
) -> None:
    """With MQTT 5's properties, and what the box retains; again after the line was down, which is said."""
    bridged = own_broker(central, tmp_path / "own")
    bridged.start()
    start_daemon(node=NODE, mqtt={"port": bridged.port})
    own = f"{BASE}/response/ann/here"
    try:
        with central.device("ann", f"{BASE}/response/ann/#", f"{BASE}/status", f"{BASE}/bridge") as ann:
            for number in range(2):
                wait_until(lambda: is_line(ann, b"1"), "the bridge says that it is up", 40)
                ann.wait_frame("/status", state="online")
                request = {"id": f"r{number}", "prompt": "hello"}
                ann.publish(f"{BASE}/request/ann", request, ResponseTopic=own, CorrelationData=b"c")
                done = ann.wait_end(f"r{number}", 40)
                assert done["type"] == "done"
                assert ann.received_text(f"r{number}") == done["text"]
                bridged.stop()
                wait_until(lambda: is_line(ann, b"0"), "the bridge is said to be down")
                bridged.start()
            answers = [message for message in ann.messages if "/response/" in message.topic]
    finally:
        bridged.stop()
    assert {message.topic for message in answers} == {own}
    assert {message.properties.CorrelationData for message in answers} == {b"c"}


def test_requests_wait_for_a_bridge_of_the_older_version(
    central: Central, tmp_path: Path, start_daemon: Callable[..., Daemon]
) -> None:
    """As the file's comment has it: the central broker keeps them while the line is down."""
    bridged = own_broker(central, tmp_path / "own", "mqttv311")
    bridged.start()
    start_daemon(node=NODE, mqtt={"port": bridged.port})
    try:
        with central.device("ann", f"{BASE}/response/ann/#", f"{BASE}/bridge") as ann:
            wait_until(lambda: is_line(ann, b"1"), "the bridge says that it is up")
            bridged.stop()
            wait_until(lambda: is_line(ann, b"0"), "the bridge is said to be down")
            ann.publish(f"{BASE}/request/ann", {"id": "r1", "prompt": "hello"})
            bridged.start()
            assert ann.wait_end("r1", 40)["type"] == "done"
    finally:
        bridged.stop()
