"""`tampu status`: how the daemon is doing, on one small screen."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.status import Status

ROUTE = "/health"
BAR_CELLS = 20
WIDTH = 100

EPILOG = """\
examples:
  tampu status
  tampu status --json

Exit code: 0 online, 1 not online, 69 no daemon answers.
"""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `status`."""
    parser = subparsers.add_parser(
        "status",
        help="how the daemon is doing",
        description="Print how the daemon is doing.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--socket", metavar="PATH", help="the daemon's socket (default: api.socket)")
    parser.set_defaults(func=show)


def show(args: argparse.Namespace) -> int:
    """Print the status; 0 when the box is online, else 1. Raises DaemonUnreachable."""
    import msgspec

    from agent import config_file, places
    from agent.cli.socket_client import SocketClient
    from agent.status import Status

    path = args.socket or places.socket_to_ask(config_file.load(args.config, args.set).api.socket)
    content = SocketClient(path).get_json(ROUTE)
    status = msgspec.json.decode(content, type=Status)
    print(content.decode() if args.json else render(status))
    return 0 if status.state == "online" else 1


def render(status: "Status") -> str:
    """The screen: a word and its value per line, aligned."""
    cells = f"{status.cells_used}/{status.cells_total}"
    lines = [
        ("state", f"{status.state}: {status.reason}" if status.reason else status.state),
        ("node", f"{status.node} (tampu {status.version}, up {_duration(status.uptime_s)})"),
        ("model", _model(status)),
        ("engine", _engine(status)),
        ("mqtt", status.mqtt if status.mqtt.startswith("connected") else f"NOT CONNECTED: {status.mqtt}"),
        ("queue", f"{status.running} running, {status.waiting} waiting, {status.live} under way"),
        ("kv cells", f"{_bar(status.cells_used, status.cells_total)} {cells}"),
        ("speed", f"{status.tokens_per_s:.1f} tok/s"),
        ("memory", _memory(status)),
        ("restarts", _restarts(status)),
        *((each.severity.value, f"{each.what} {each.remedy}".rstrip()) for each in status.findings),
    ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(_wrapped(f"{name:<{width}}  {value}", " " * (width + 2)) for name, value in lines)


def _wrapped(line: str, indent: str) -> str:
    """What does not fit goes on below, under its value."""
    import textwrap

    return textwrap.fill(
        line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _model(status: "Status") -> str:
    model = status.model
    if model is None:
        return "none loaded"
    runs = f"; {model.runs}" if model.runs else ""
    return f"{model.name} {model.quant} (n_ctx {model.n_ctx}, {model.slots} slots{runs})"


def _engine(status: "Status") -> str:
    engine = status.engine
    context = ", its context given back" if engine.is_context_free else ""
    wake = f"; the last waking took {engine.wake_s:.1f} s" if engine.wake_s is not None else ""
    return f"{engine.state} for {_duration(engine.for_s)}{context}{wake}"


def _memory(status: "Status") -> str:
    memory = status.memory
    if memory.engine_anonymous_bytes is None or memory.daemon_anonymous_bytes is None:
        said = f"daemon {_mb(memory.daemon_rss_bytes)}, engine {_mb(memory.engine_rss_bytes)} resident"
    else:
        predicted = memory.engine_predicted_bytes
        foreseen = f" ({_mb(predicted)} predicted)" if predicted is not None else ""
        engine, daemon = _mb(memory.engine_anonymous_bytes), _mb(memory.daemon_anonymous_bytes)
        said = f"engine {engine}{foreseen}, daemon {daemon} anonymous"
    if memory.hard_bytes is not None and memory.hot_file_bytes is not None:
        lowered = f", lowered to level {memory.level}" if memory.level else ""
        said += f"; budget {_mb(memory.hard_bytes)} and {_mb(memory.hot_file_bytes)} of the model{lowered}"
    return said + (f"; pressure {memory.pressure}" if memory.pressure else "")


def _mb(count: int) -> str:
    return f"{count / (1 << 20):.0f} MiB"


def _restarts(status: "Status") -> str:
    last = status.last_crash
    if last is None:
        return f"{status.engine_restarts}"
    when = f", {last.date}" if last.date else ""
    word = "before this start" if last.is_earlier else "last"
    return f"{status.engine_restarts} ({word}: {last.sentence}{when})"


def _bar(used: int, total: int) -> str:
    filled = BAR_CELLS * used // max(total, 1)
    return f"[{'#' * filled:.<{BAR_CELLS}}]"


def _duration(seconds: float) -> str:
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    parts = [f"{n} {unit}" for n, unit in ((days, "d"), (h, "h"), (m, "min"), (s, "s")) if n]
    return " ".join(parts[:2]) or "0 s"
