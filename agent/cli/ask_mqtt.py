"""`tampu ask --mqtt`: the same question as a device asks it, over a broker."""

import argparse
import math
import re
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import DaemonUnreachable, TampuError, from_code

# Imported where it is used: `tampu ask` over the socket needs none of it.
if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from agent.client import Answer, TampuClient

# A person waits: long enough for a broker that leaves MQTT 5 unanswered to be asked in 3.1.1.
CONNECTS_WITHIN_S = 15.0
# What a box takes as `ttl_s`.
MAX_TIMEOUT_S = 86400 * 365
_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^:\s]+))(?::(?P<port>[0-9]{1,5}))?\Z")


def register(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("over MQTT")
    group.add_argument(
        "--mqtt", metavar="HOST[:PORT]", type=address, help="ask through this broker, not the socket"
    )
    group.add_argument("--node", metavar="NAME", help="the box to ask (default: the only one there is)")
    group.add_argument("--pool", metavar="NAME", help="ask whichever box of a pool is free")
    group.add_argument("--mqtt-prefix", metavar="TOPIC", default="tampu/v1", help="default: tampu/v1")
    group.add_argument(
        "--mqtt-client", metavar="NAME", help="our name (default: the user, or the host's name)"
    )
    group.add_argument("--mqtt-user", metavar="NAME", help="user name at the broker")
    group.add_argument(
        "--mqtt-password-file", metavar="FILE", help="a file with the password as its first line"
    )
    group.add_argument("--mqtt-tls", action="store_true", help="speak TLS")
    group.add_argument("--mqtt-ca", metavar="FILE", help="speak TLS, and trust this file, not the system's")
    group.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        default=300.0,
        help="give up after so long (default: 300)",
    )


def seconds(text: str) -> float:
    """How long to wait: more than nothing, and no longer than a request may live. Raises
    ArgumentTypeError."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= MAX_TIMEOUT_S:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; expected seconds, above 0, a year at most")
    return value


def address(text: str) -> tuple[str, int | None]:
    """Host and port of HOST, HOST:PORT or [IPv6]:PORT. Raises ArgumentTypeError."""
    match = _ADDRESS.match(text)
    port = int(match["port"]) if match and match["port"] else None
    if match is None or (port is not None and not 1 <= port <= 65535):
        raise argparse.ArgumentTypeError(f"{text!r} is no address; expected HOST, HOST:PORT or [IPv6]:PORT")
    return match["v6"] or match["host"], port


def ask(
    args: argparse.Namespace, fields: dict[str, Any], print_texts: "Callable[[Iterator[str]], None]"
) -> None:
    """Print the answer: as it comes with `print_texts`, else whole. Raises TampuError."""
    from agent.client import AnswerError, NoAnswer

    try:
        with _connected(args) as box:
            answer = box.stream(timeout_s=args.timeout, **fields)
            if args.json or args.no_stream:
                text = answer.wait()
                print(_frame(answer) if args.json else text)
            else:
                print_texts(_texts(answer))
            reason = (answer.frame or {}).get("finish_reason")
    except AnswerError as error:
        raise from_code(error.code, str(error)) from error
    except NoAnswer as error:
        raise DaemonUnreachable(str(error)) from error
    if reason not in {"stop", "length"}:
        raise TampuError(f"the answer was cut short: {reason}; ask again")


def _frame(answer: "Answer") -> str:
    import msgspec

    return msgspec.json.encode(answer.frame).decode()


def _texts(answer: "Answer") -> "Iterator[str]":
    """The answer's; where the box died and says something else, on lines of its own."""
    num_restarts = 0
    for text in answer:
        if answer.receiver.num_restarts > num_restarts:
            num_restarts = answer.receiver.num_restarts
            print("\ntampu: the box was interrupted; its answer from the beginning:", file=sys.stderr)
        yield text


@contextmanager
def _connected(args: argparse.Namespace) -> "Iterator[TampuClient]":
    from agent.client import TampuClient

    host, port = args.mqtt
    try:
        box = TampuClient(
            host,
            port=port,
            node=args.node,
            pool=args.pool,
            client=args.mqtt_client,
            prefix=args.mqtt_prefix,
            username=args.mqtt_user,
            password=_password(args.mqtt_password_file),
            tls=_tls(args.mqtt_ca) if args.mqtt_ca else args.mqtt_tls,
        )
    except ValueError as error:
        raise TampuError(str(error)) from error
    try:
        box.connect(min(args.timeout, CONNECTS_WITHIN_S))
        yield box
    finally:
        box.close()


def _password(path: str | None) -> str | None:
    if path is None:
        return None
    try:
        return Path(path).read_text(encoding="utf-8").split("\n", 1)[0]
    except (OSError, ValueError) as error:
        raise TampuError(f"{path}: no password can be read from it ({error.__class__.__name__})") from error


def _tls(ca: str) -> "ssl.SSLContext":
    import ssl

    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise TampuError(f"{ca}: cannot be used to check the broker: {error}") from error
