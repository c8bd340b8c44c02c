"""TLS to a real mosquitto with real certificates: whom we believe, and what is said when we do not."""

import asyncio
import datetime
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.config import Mqtt, Tls
from agent.errors import BrokerError
from agent.mqtt.client import Connection, TlsRefused
from agent.mqtt.wire import finding_of
from tests.integration.conftest import BASE
from tests.support.certificates import Authority, Certificate
from tests.support.device import Device
from tests.support.processes import Daemon, Mosquitto, free_port

pytestmark = pytest.mark.anyio

IN_1970 = 1000.0
THIS_DAY = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC).timestamp()
NEXT_CENTURY = "20980101000000Z"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@contextmanager
def tls_broker(folder: Path, server: Certificate, extra: str = "") -> Iterator[Mosquitto]:
    """A mosquitto whose one listener speaks TLS."""
    folder.mkdir()
    mosquitto = Mosquitto(folder, extra=f"certfile {server.cert}\nkeyfile {server.key}\n{extra}")
    mosquitto.start()
    try:
        yield mosquitto
    finally:
        mosquitto.stop()


async def connect(port: int, tls: Tls, *, now_s: float = THIS_DAY, host: str = "127.0.0.1") -> list[str]:
    """Open a connection and close it; the codes of what it found. Raises BrokerError."""
    settings = Mqtt(host=host, port=port, tls=tls)
    connection = Connection(settings, "tampu-tls", None, True, lambda _: None, now=lambda: now_s)
    try:
        await connection.open()
        return [finding.code for finding in connection.findings]
    finally:
        await connection.close()


async def refusal(port: int, tls: Tls, *, now_s: float = THIS_DAY, host: str = "127.0.0.1") -> str:
    with pytest.raises(TlsRefused) as caught:
        await connect(port, tls, now_s=now_s, host=host)
    finding = finding_of(caught.value)
    assert finding is not None
    assert finding.code == "broker_tls"
    assert finding.remedy.lower().startswith(str(caught.value).rsplit("; ", 1)[1].lower())
    return str(caught.value)


async def test_a_certificate_of_the_authority_is_believed(authority: Authority, tmp_path: Path) -> None:
    """With a clock that can be believed nothing is to be said about it."""
    with tls_broker(tmp_path / "b", authority.issue("server")) as broker:
        assert await connect(broker.port, Tls(ca=str(authority.ca))) == []
        assert await connect(broker.port, Tls(ca=str(authority.ca), dates="checked"), now_s=IN_1970) == []


async def test_a_certificate_that_is_not_valid_yet(authority: Authority, tmp_path: Path) -> None:
    """Is refused, unless the box's clock was never set and `dates` is auto: then it is a finding."""
    server = authority.issue("server", starts=NEXT_CENTURY)
    ca = str(authority.ca)
    with tls_broker(tmp_path / "b", server) as broker:
        assert await connect(broker.port, Tls(ca=ca), now_s=IN_1970) == ["clock_unset"]
        for tls, now_s in ((Tls(ca=ca), THIS_DAY), (Tls(ca=ca, dates="checked"), IN_1970)):
            said = await refusal(broker.port, tls, now_s=now_s)
            assert "not yet valid" in said
            assert re.search(r"set this box's clock, which says (2030|1970)-01-01$", said)


async def test_a_certificate_that_has_expired(authority: Authority, tmp_path: Path) -> None:
    """The remedy is either of two."""
    server = authority.issue("server", ends="20210101000000Z")
    with tls_broker(tmp_path / "b", server) as broker:
        said = await refusal(broker.port, Tls(ca=str(authority.ca)))
        assert "renew the broker's certificate, or set this box's clock" in said


@pytest.mark.parametrize("now_s", [IN_1970, THIS_DAY], ids=["in 1970", "today"])
async def test_another_authority_is_refused_whatever_the_clock_says(
    authority: Authority, tmp_path: Path, now_s: float
) -> None:
    """Leaving the dates unread leaves nothing else unread."""
    other = Authority(tmp_path / "other")
    with tls_broker(tmp_path / "b", authority.issue("server")) as broker:
        for tls in (Tls(ca=str(other.ca)), Tls()):
            assert "set mqtt.tls.ca to the authority" in await refusal(broker.port, tls, now_s=now_s)


@pytest.mark.parametrize("now_s", [IN_1970, THIS_DAY], ids=["in 1970", "today"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_another_name_is_refused_whatever_the_clock_says(
    authority: Authority, tmp_path: Path, now_s: float, host: str
) -> None:
    """An address or a name that does not stand in the certificate."""
    server = authority.issue("server", "DNS:broker.example.org,IP:192.0.2.1")
    with tls_broker(tmp_path / "b", server) as broker:
        said = await refusal(broker.port, Tls(ca=str(authority.ca)), now_s=now_s, host=host)
        assert "set mqtt.host to a name that stands in the broker's certificate" in said


async def test_a_port_without_tls_is_said_to_be_one(broker: Mosquitto, authority: Authority) -> None:
    """Nobody there shakes hands."""
    assert "mqtt.port" in await refusal(broker.port, Tls(ca=str(authority.ca)))


async def test_a_broker_that_wants_a_certificate_gets_ours(authority: Authority, tmp_path: Path) -> None:
    """Without one the connection is closed, and the sentence names the keys."""
    client = authority.issue("box")
    ca = str(authority.ca)
    extra = f"cafile {ca}\nrequire_certificate true\n"
    with tls_broker(tmp_path / "b", authority.issue("server"), extra) as broker:
        with pytest.raises(BrokerError, match=r"mqtt\.tls\.cert and mqtt\.tls\.key"):
            await connect(broker.port, Tls(ca=ca))
        assert await connect(broker.port, Tls(ca=ca, cert=str(client.cert), key=str(client.key))) == []


async def test_the_files_of_tls_may_be_credentials(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bare names, where systemd put them."""
    authority.issue("box")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(authority.folder))
    extra = f"cafile {authority.ca}\nrequire_certificate true\n"
    with tls_broker(tmp_path / "b", authority.issue("server"), extra) as broker:
        assert await connect(broker.port, Tls(ca="ca.crt", cert="box.crt", key="box.key")) == []


async def test_files_that_cannot_be_used_are_named_as_the_key_that_names_them(tmp_path: Path) -> None:
    """A missing authority, a key that is none."""
    (tmp_path / "empty.pem").touch()
    for tls in (Tls(ca=str(tmp_path / "none")), Tls(cert=str(tmp_path / "empty.pem"))):
        with pytest.raises(BrokerError, match=r"^mqtt\.tls: "):
            await connect(free_port(), tls)


async def test_a_daemon_behind_tls_answers(
    authority: Authority, tmp_path: Path, start_daemon: Callable[..., Daemon], broker: Mosquitto
) -> None:
    """All the way: certificate of its own, prompt and answer through a plain listener beside it."""
    server, box = authority.issue("server"), authority.issue("box")
    port = free_port()
    plain = f"cafile {authority.ca}\nrequire_certificate true\nlistener {port} 127.0.0.1\n"
    with tls_broker(tmp_path / "b", server, plain) as secured:
        tls = {"ca": str(authority.ca), "cert": str(box.cert), "key": str(box.key)}
        daemon = await asyncio.to_thread(start_daemon, mqtt={"port": secured.port, "tls": tls})
        with Device(port, f"{BASE}/response/me/#") as device:
            device.publish(f"{BASE}/request/me", {"id": "r1", "prompt": "hello"})
            assert device.wait_end("r1")["type"] == "done"
        assert await asyncio.to_thread(daemon.stop) == 0
