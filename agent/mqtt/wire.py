"""What goes over one connection, and how it can fail."""

from dataclasses import dataclass

from agent.errors import BrokerError
from agent.findings import Finding, Severity

TAKEN_OVER = 0x8E
# "Bad user name or password" and "not authorised" of MQTT 5; paho turns those of 3.1.1 into these.
BAD_CREDENTIALS, NOT_AUTHORISED = 0x86, 0x87
_NO_RETAINED_WILL, _NO_WILL_QOS = 0x9A, 0x9B


@dataclass(frozen=True, slots=True)
class Incoming:
    """A publish that reached us; `mid` is what its acknowledgement needs."""

    topic: str
    payload: bytes
    qos: int
    mid: int
    is_retained: bool
    is_duplicate: bool
    response_topic: str | None
    correlation: bytes | None
    expiry_s: int | None
    content_type: str | None


@dataclass(frozen=True, slots=True)
class Publish:
    """A message to send. The broker forgets it after `expiry_s` seconds; that and `correlation` need
    MQTT 5 and are left out without it."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    correlation: bytes | None = None
    expiry_s: int | None = None

    @property
    def num_bytes(self) -> int:
        """About what it takes in memory and on the wire."""
        return len(self.payload) + len(self.topic) + len(self.correlation or b"")


class ProtocolRefused(BrokerError):
    """The broker says that it does not speak this version of MQTT."""


class ClosedUnheard(BrokerError):
    """The broker did not answer CONNECT: some close, and some wait for ever, on versions they do not know."""


class ConnectRefused(BrokerError):
    """The broker answered CONNECT with a no; `code` is its reason code (MQTT 5, 3.2.2.2)."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class TlsRefused(BrokerError):
    """TLS did not come about; the text is a sentence with the next step after its last `; `."""


class ConnectionLost(BrokerError):
    """The connection ended before the broker acknowledged."""


class Overfull(ConnectionLost):
    """Not sent: more waits for the broker's acknowledgements already than we keep."""


def finding_of(error: BrokerError) -> Finding | None:
    """What a person should know of a failed connect; None for a broker that is merely away."""
    if isinstance(error, TlsRefused):
        what, _, step = str(error).rpartition("; ")
        return Finding(Severity.ERROR, "broker_tls", f"{_capital(what)}.", f"{_capital(step)}.")
    if not isinstance(error, ConnectRefused):
        return None
    if error.code in (BAD_CREDENTIALS, NOT_AUTHORISED):
        step = "Set mqtt.username and mqtt.password_file to what the broker knows."
        return Finding(Severity.ERROR, "broker_credentials", "The broker does not let this box in.", step)
    step = "See the broker's log for the reason."
    if error.code in (_NO_RETAINED_WILL, _NO_WILL_QOS):
        step = "Allow retained messages and QoS 1 there: the last will of this box needs both."
    return Finding(Severity.ERROR, "broker_refused", f"{_capital(str(error))}.", step)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
