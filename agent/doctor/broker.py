"""Does the broker let us in: one real CONNECT with the configured credentials, and no trace of it left."""

import asyncio
import secrets
import socket
import ssl
import threading
from typing import Literal

import msgspec
from msgspec import Struct

from agent.config import Mqtt, Tls
from agent.errors import BrokerError, ConfigError
from agent.hardware import listeners
from agent.mqtt.client import ClosedUnheard, Connection, ConnectRefused, ProtocolRefused

# All of it; a broker that is there answers within one.
GREETED_WITHIN_S = 5.0
# Each step of a connection: TCP, and the wait for the CONNACK.
STEP_S = 2.5
# "Bad user name or password" and "not authorised" of MQTT 5; paho turns those of 3.1.1 into these.
BAD_CREDENTIALS, NOT_AUTHORISED = 0x86, 0x87

Trouble = Literal[
    "", "name", "no_listener", "unreachable", "silent", "tls", "credentials", "refused", "unreadable"
]


class Greeting(Struct, frozen=True):
    """How it went: no `trouble` and the `protocol` spoken, or what went wrong and what was said about it.

    `is_anonymous`: it lets in clients that have no credentials, ours or others; None: it was not asked.
    `is_exposed`: it listens beyond this box; None: nobody tells.
    """

    host: str
    port: int
    protocol: str = ""
    trouble: Trouble = ""
    said: str = ""
    is_anonymous: bool | None = None
    is_exposed: bool | None = None


async def greet(settings: Mqtt) -> Greeting:
    """Connect as the daemon would, under a random client id, and leave again. Takes about 5 s at most."""
    # paho waits so long for a TLS handshake.
    settings = msgspec.structs.replace(settings, keepalive_s=int(GREETED_WITHIN_S))
    trouble: Trouble = ""
    said = ""
    for is_v5 in (True, False) if settings.protocol == "auto" else (settings.protocol != "3.1.1",):
        try:
            async with asyncio.timeout(GREETED_WITHIN_S):
                await _resolve(settings.host, settings.port)
                await _connect(settings, is_v5=is_v5)
        except (BrokerError, ConfigError, TimeoutError, OSError) as error:
            trouble, said = _trouble(error), str(error)
            if isinstance(error, ProtocolRefused | ClosedUnheard):
                continue
        else:
            return Greeting(
                settings.host,
                settings.port,
                "5" if is_v5 else "3.1.1",
                is_anonymous=await _lets_in_anybody(settings, is_v5=is_v5),
                is_exposed=listeners.is_exposed(settings.host, settings.port),
            )
        break
    return Greeting(settings.host, settings.port, trouble=trouble, said=said)


async def _lets_in_anybody(settings: Mqtt, *, is_v5: bool) -> bool:
    """Try once more without a name and without a certificate of ours, where we have one."""
    stranger = without_credentials(settings)
    if stranger == settings:
        return True
    try:
        async with asyncio.timeout(GREETED_WITHIN_S):
            await _connect(stranger, is_v5=is_v5)
    except (BrokerError, ConfigError, TimeoutError, OSError):
        return False
    return True


def without_credentials(settings: Mqtt) -> Mqtt:
    """The same broker for somebody who only knows where it is."""
    tls = settings.tls and Tls(ca=settings.tls.ca, dates=settings.tls.dates)
    return msgspec.structs.replace(settings, username=None, password_file=None, tls=tls)


async def _resolve(host: str, port: int) -> None:
    """Raises OSError for a name nobody knows. On a thread that may be left behind: a resolver is patient."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def tell(error: OSError | UnicodeError | None) -> None:
        if not done.done():
            done.set_exception(error) if error else done.set_result(None)

    def ask() -> None:
        error: OSError | UnicodeError | None = None
        try:
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as problem:
            error = problem if isinstance(problem, OSError) else socket.gaierror(str(problem))
        if not loop.is_closed():
            loop.call_soon_threadsafe(tell, error)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    try:
        async with asyncio.timeout(STEP_S):
            await done
    except TimeoutError as error:
        raise socket.gaierror("the name servers do not answer") from error


async def _connect(settings: Mqtt, *, is_v5: bool) -> None:
    connection = Connection(
        settings,
        f"tampu-doctor-{secrets.token_hex(4)}",
        None,
        is_v5,
        lambda _message: None,
        keeps_session=False,
        timeout_s=STEP_S,
    )
    try:
        await connection.open()
    finally:
        await connection.close()


def _trouble(error: Exception) -> Trouble:
    """What an error means; the cause of a BrokerError is what the system said."""
    cause = error.__cause__ if isinstance(error, BrokerError) else error
    match error, cause:
        case ConnectRefused(), _:
            is_ours = error.code in (BAD_CREDENTIALS, NOT_AUTHORISED)
            return "credentials" if is_ours else "refused"
        case ((ClosedUnheard() | ProtocolRefused()), _):
            return "silent"
        case ConfigError(), _:
            return "unreadable"
        case _, socket.gaierror():
            return "name"
        case _, (ssl.SSLError() | ConnectionResetError()):  # nothing but a handshake was sent yet
            return "tls"
        case _, ConnectionRefusedError():
            return "no_listener"
        case _, OSError() if str(error).startswith("mqtt.tls"):
            return "unreadable"
        case _:
            return "unreachable"
