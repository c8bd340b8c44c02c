"""TLS to the broker: whom we believe, and what to say when that fails.

A small board without a battery wakes up in 1970. Until its clock has been set, `mqtt.tls.dates: auto`
leaves a certificate's dates unread: everything else is checked as ever, and the name server, the time
server and the broker may come up in any order.
"""

import datetime
import ssl
from dataclasses import dataclass

from agent import RELEASED
from agent.config import Tls
from agent.errors import BrokerError
from agent.findings import Finding, Severity
from agent.mqtt.wire import TlsRefused
from agent.places import credential

# OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python has no name for.
_NO_CHECK_TIME = 0x200000
# OpenSSL's X509_V_ERR_*: what verify_code says.
_NOT_YET_VALID, _EXPIRED, _NO_ISSUERS, _WRONG_NAMES = 9, 10, {2, 18, 19, 20, 21}, {62, 64}


@dataclass(frozen=True, slots=True)
class Trust:
    """A context for one connection, and what is to be known about it."""

    context: ssl.SSLContext
    findings: tuple[Finding, ...] = ()


class _Socket(ssl.SSLSocket):
    """Closes when the handshake fails; paho leaves that to the garbage collector."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def trust(settings: Tls, now_s: float) -> Trust:
    """`now_s` is the box's clock in seconds since 1970. Raises BrokerError for files that cannot be used."""
    try:
        context = ssl.create_default_context(cafile=_path(settings.ca))
        if settings.cert:
            # A key with a passphrase would have OpenSSL ask the terminal, which a daemon has not.
            context.load_cert_chain(str(credential(settings.cert)), _path(settings.key), password=lambda: "")
    except (OSError, ssl.SSLError, ValueError) as error:
        raise BrokerError(f"mqtt.tls: the files cannot be used: {error}") from error
    context.sslsocket_class = _Socket
    if settings.dates == "checked" or now_s >= _released_s():
        return Trust(context)
    context.verify_flags |= _NO_CHECK_TIME
    what = f"This box's clock says {_day(now_s)}, so the dates of the broker's certificate are not checked."
    remedy = "Set the clock (chrony or systemd-timesyncd does); then they are, at the next connect."
    return Trust(context, (Finding(Severity.WARNING, "clock_unset", what, remedy),))


def explain(error: ssl.SSLError | ConnectionError, where: str, now_s: float) -> TlsRefused:
    """A failed handshake as a sentence with its remedy."""
    return TlsRefused(f"the broker at {where} cannot be reached: {error}; {_remedy(error, now_s)}")


def _remedy(error: Exception, now_s: float) -> str:
    if not isinstance(error, ssl.SSLCertVerificationError):
        return "check that mqtt.port is its TLS port, and whether it asks for mqtt.tls.cert and mqtt.tls.key"
    code = error.verify_code
    if code == _NOT_YET_VALID:
        return f"set this box's clock, which says {_day(now_s)}"
    if code == _EXPIRED:
        return f"renew the broker's certificate, or set this box's clock, which says {_day(now_s)}"
    if code in _WRONG_NAMES:
        return "set mqtt.host to a name that stands in the broker's certificate"
    if code in _NO_ISSUERS:
        return "set mqtt.tls.ca to the authority that signed the broker's certificate"
    return "give the broker a certificate that mqtt.tls.ca has signed"


def _path(name: str | None) -> str | None:
    return None if name is None else str(credential(name))


def _released_s() -> float:
    return datetime.datetime.fromisoformat(RELEASED).replace(tzinfo=datetime.UTC).timestamp()


def _day(now_s: float) -> str:
    return datetime.datetime.fromtimestamp(now_s, datetime.UTC).date().isoformat()
