"""`tampu ask`: one prompt to the daemon, its answer on stdout as it comes."""

import argparse
import os
import stat
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cli import ask_mqtt
from agent.errors import TampuError, TooLarge

# Imported where the verb runs: `tampu --help` needs none of it.
if TYPE_CHECKING:
    from collections.abc import Iterator

    from agent.cli.socket_client import SocketClient

ROUTE = "/v1/chat/completions"
# No box takes more (limits.request_bytes at its highest, as JSON).
MAX_STDIN_BYTES = 16 << 20

EPILOG = """\
examples:
  tampu ask "Why do leaves turn yellow?"
  tampu ask --session kitchen "And what do they taste of?"
  journalctl -n 50 | tampu ask "What went wrong here?"
  tampu ask --profile greenhouse --temperature 0 --json "Is 41 °C too hot?" < /dev/null
  tampu ask --schema reading.json "The sensor says 31 degrees. As JSON:"
  tampu ask --mqtt 192.168.1.10 --node greenhouse-1 "Is 41 °C too hot?"

Text on a pipe or from a file is added to the words; in a shell loop that reads stdin, give < /dev/null.
Ctrl-C cancels the answer.
"""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `ask`."""
    parser = subparsers.add_parser(
        "ask",
        help="ask the daemon one question",
        description="Ask the daemon one question; the answer streams to stdout.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", metavar="WORDS", nargs="*", help="the prompt; - stands for stdin")
    parser.add_argument("--system", metavar="TEXT", help="a system prompt")
    parser.add_argument("--profile", metavar="NAME", help="a system prompt the daemon's configuration names")
    parser.add_argument("--session", metavar="NAME", help="go on with the conversation of this name")
    parser.add_argument("--max-tokens", metavar="N", type=int, help="the most tokens the answer may have")
    parser.add_argument("--temperature", metavar="T", type=float, help="0 is the most likely answer, up to 2")
    parser.add_argument("--seed", metavar="N", type=int, help="the same seed draws the same answer")
    parser.add_argument(
        "--stop", metavar="TEXT", action="append", default=[], help="end the answer here (repeatable)"
    )
    parser.add_argument("--schema", metavar="FILE", help="a JSON schema that the answer keeps to")
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    parser.add_argument("--no-stream", action="store_true", help="print the answer when it is complete")
    parser.add_argument("--socket", metavar="PATH", help="the daemon's socket (default: api.socket)")
    ask_mqtt.register(parser)
    parser.set_defaults(func=ask)


def ask(args: argparse.Namespace) -> int:
    """Print the answer. Raises the error it ends in."""
    if args.mqtt is not None:
        ask_mqtt.ask(args, _fields(args), _print_texts)
        return 0
    if args.node or args.pool:
        raise TampuError("--node and --pool are for asking over MQTT: say which broker with --mqtt HOST")
    from agent.cli.socket_client import SocketClient

    client = SocketClient(args.socket or _configured_socket(args))
    prompt = _prompt(args.words)
    if args.json or args.no_stream:
        _print_whole(client, _request(args, prompt, stream=False), as_json=args.json)
    else:
        _print_stream(client, _request(args, prompt, stream=True))
    return 0


def _configured_socket(args: argparse.Namespace) -> str:
    from agent import config_file, places

    return places.socket_to_ask(config_file.load(args.config, args.set).api.socket)


def _prompt(words: list[str]) -> str:
    """The words, with stdin where `-` stands, or after them when something is piped in."""
    if "-" in words:
        return " ".join(_read_stdin() if word == "-" else word for word in words)
    if not words and (sys.stdin is None or sys.stdin.isatty()):
        raise TampuError('there is nothing to ask; try: tampu ask "Why do leaves turn yellow?"')
    if words and not _is_piped():
        return " ".join(words)
    return "\n\n".join(part for part in (" ".join(words), _read_stdin()) if part)


def _is_piped() -> bool:
    """True for a pipe or a file; a service's or a cron job's stdin is neither."""
    if sys.stdin is None:
        return False
    mode = os.fstat(sys.stdin.fileno()).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def _read_stdin() -> str:
    content = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(content) > MAX_STDIN_BYTES:
        raise TooLarge(f"stdin has more than {MAX_STDIN_BYTES} bytes; ask about less")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise TampuError("stdin is not UTF-8 text; only text can be asked about") from error


def _fields(args: argparse.Namespace) -> dict[str, Any]:
    """The request as MQTT has it."""
    fields = {
        "prompt": _prompt(args.words),
        "system": args.system,
        "profile": args.profile,
        "session": args.session,
        "max_tokens": args.max_tokens,
        "temperature": args.temperature,
        "seed": args.seed,
        "stop": args.stop or None,
        "schema": _read_schema(args.schema) if args.schema else None,
        "stream": not (args.json or args.no_stream),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _request(args: argparse.Namespace, prompt: str, *, stream: bool) -> bytes:
    from agent.api.schemas import ChatCompletionRequest, ChatMessage, JsonSchema, ResponseFormat, encode

    system = (ChatMessage("system", args.system),) if args.system else ()
    request = ChatCompletionRequest(
        messages=(*system, ChatMessage("user", prompt)),
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        seed=args.seed,
        stop=args.stop or None,
        stream=stream,
        profile=args.profile,
        session=args.session,
        response_format=(
            ResponseFormat("json_schema", JsonSchema(_read_schema(args.schema), "answer"))
            if args.schema
            else None
        ),
    )
    try:
        return encode(request)
    except UnicodeEncodeError as error:
        raise TampuError("the prompt is not UTF-8 text; only text can be asked about") from error


def _read_schema(path: str) -> dict[str, Any]:
    import msgspec

    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=dict[str, Any])
    except OSError as error:
        raise TampuError(f"{path}: cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise TampuError(f"{path}: is no JSON schema: {error}") from error


def _print_whole(client: "SocketClient", body: bytes, *, as_json: bool) -> None:
    import msgspec

    from agent.api.schemas import ChatCompletion

    result = client.post_json(ROUTE, body)
    choice = msgspec.json.decode(result, type=ChatCompletion).choices[0]
    print(result.decode() if as_json else choice.message.content)
    _complain_if_cut(choice.finish_detail)


def _complain_if_cut(detail: object) -> None:
    """An answer that was cancelled or timed out looks whole on the screen. Raises TampuError."""
    if isinstance(detail, str):
        raise TampuError(f"the answer was cut short: {detail}; ask again")


def _print_stream(client: "SocketClient", body: bytes) -> None:
    with closing(client.post_events(ROUTE, body)) as events:
        _print_texts(_texts(events))


def _print_texts(texts: "Iterator[str]") -> None:
    last = ""
    try:
        for text in texts:
            print(text, end="", flush=True)
            last = text
    finally:
        if last and not last.endswith("\n"):  # after an error, too: its sentence gets its own line
            print(flush=True)


def _texts(events: "Iterator[bytes]") -> "Iterator[str]":
    import msgspec

    from agent.api.schemas import ChatCompletionChunk

    decoder = msgspec.json.Decoder(ChatCompletionChunk)
    for event in events:
        for choice in decoder.decode(event).choices:
            if choice.delta.content:
                yield choice.delta.content
            _complain_if_cut(choice.finish_detail)
