"""`tampu demo`: a broker, the daemon and a device on this machine, and one prompt from end to end."""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agent.cli.demo_broker import Broker, start_broker
from agent.errors import TampuError

NODE = "demo"
CLIENT = "greenhouse-sensor"
PROMPT = (
    "A sensor in my greenhouse reads 41 degrees Celsius. In two sentences, what should I do for the plants?"
)
# A fixed seed: the demo of one box says the same thing every time.
SEED = 7
READY_WITHIN_S = 60.0
ENDS_WITHIN_S = 20.0


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "demo",
        help="broker, daemon and a simulated device, all on this machine",
        description="Start a broker, the daemon and a simulated device here, and stream one answer.",
        epilog='example: tampu demo --stay --prompt "Why is the sky blue?"',
    )
    parser.add_argument("--prompt", default=PROMPT, help="what the device asks")
    parser.add_argument("--stay", action="store_true", help="keep broker and daemon running until Ctrl-C")
    parser.add_argument(
        "--embedded", action="store_true", help="use the embedded broker even where mosquitto is"
    )
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Start everything, stream one answer, and take everything down again."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(_sigterm_as_interrupt())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tampu-demo-")))
        models = _ensure_model(args)
        broker = stack.enter_context(start_broker(folder, embedded=args.embedded))
        _say(f"broker   {broker.name} on 127.0.0.1:{broker.port}")
        config = _write_config(folder, broker, models)
        daemon = stack.enter_context(_daemon(folder, config))
        _wait_until_online(folder, daemon)
        _ask(args.prompt, broker, folder)
        _say_what_next(broker, folder, stays=args.stay)
        if args.stay:
            with contextlib.suppress(KeyboardInterrupt):
                daemon.wait()
    return 0


def _ensure_model(args: argparse.Namespace) -> Path:
    """The folder that holds the default model; it is fetched where it is missing."""
    from agent import config_file, places
    from agent.catalog.manifest import load_manifest
    from agent.catalog.store import FileState, Store
    from agent.cli.meter import Meter

    checkout = Path(__file__).parents[2] / "models"
    in_checkout = (checkout / "manifest.yaml").is_file()
    folder = checkout if in_checkout else Path(config_file.load(args.config, args.set).models.folder)
    variant, store = load_manifest().model().preferred, Store(folder)
    if store.status(variant) is not FileState.PRESENT:
        _say("model    not here yet: fetching it")
        with Meter(sys.stderr) as meter:
            store.fetch(variant, places.cache_folder(), meter)
    return folder


def _write_config(folder: Path, broker: Broker, models: Path) -> Path:
    import yaml

    tree = {
        "node": NODE,
        "mqtt": {"host": "127.0.0.1", "port": broker.port, "protocol": broker.protocol},
        "api": {"socket": str(_socket(folder))},
        "models": {"folder": str(models)},
        "journal": {"folder": str(folder)},
    }
    path = folder / "tampu.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@contextlib.contextmanager
def _daemon(folder: Path, config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The real daemon in its own process, its log in a file."""
    log = folder / "tampu.log"
    command = [sys.executable, "-m", "agent", "--config", str(config), "run"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, start_new_session=True, env=_environment()
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(ENDS_WITHIN_S)
        process.kill()
        process.wait()


def _environment() -> dict[str, str]:
    """Ours without overrides: the demo's daemon is configured by its file alone."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TAMPU_")}


def _wait_until_online(folder: Path, daemon: subprocess.Popen[bytes]) -> None:
    started = time.monotonic()
    _say("daemon   starting")
    status: dict[str, Any] = {}
    while time.monotonic() - started < READY_WITHIN_S:
        if daemon.poll() is not None:
            break
        status = _status(folder) or status
        if status.get("state") == "degraded":
            raise TampuError(f"the daemon cannot answer: {status['reason']}")
        if status.get("state") == "online" and str(status.get("mqtt", "")).startswith("connected"):
            model = status["model"]
            seconds = time.monotonic() - started
            _say(f"daemon   online after {seconds:.1f} s: {model['name']} {model['quant']}, {status['mqtt']}")
            return
        time.sleep(0.05)
    tail = (folder / "tampu.log").read_text(errors="replace").splitlines()[-5:]
    raise TampuError("the daemon did not come up; its last words:\n" + "\n".join(tail))


def _ask(prompt: str, broker: Broker, folder: Path) -> None:
    """One prompt from a simulated device, its tokens as they come, and the figures."""
    from agent.client import AnswerError, NoAnswer, TampuClient

    with TampuClient(
        "127.0.0.1", node=NODE, client=CLIENT, port=broker.port, protocol=broker.protocol
    ) as device:
        _say(f"device   {CLIENT} publishes to tampu/v1/{NODE}/request/{CLIENT}: {prompt}")
        print()
        asked, first = time.monotonic(), 0.0
        try:
            answer = device.stream(prompt, seed=SEED)
            for text in answer:
                first = first or time.monotonic()
                print(text, end="", flush=True)
        except (AnswerError, NoAnswer) as error:
            raise TampuError(f"the box did not answer: {error}") from error
        print("\n")
        assert answer.frame is not None
        frame, memory = answer.frame, (_status(folder) or {}).get("memory", {})
    num_tokens, decode_s = frame["usage"]["completion"], frame["timings"]["decode_s"]
    _say(
        f"figures  first token after {(first - asked) * 1000:.0f} ms;"
        f" {(num_tokens - 1) / decode_s if decode_s else 0:.0f} tok/s over {num_tokens} tokens;"
        f" memory {memory.get('daemon_rss_bytes', 0) >> 20} MiB daemon"
        f" + {memory.get('engine_rss_bytes', 0) >> 20} MiB engine"
    )


def _say_what_next(broker: Broker, folder: Path, *, stays: bool) -> None:
    if not stays:
        _say(f"next     {_command()} demo --stay, then talk to it yourself; or README.md, section Use")
        return
    port = f"-p {broker.port} " if broker.port != 1883 else ""
    print(
        f"""
Everything stays up until Ctrl-C. In another terminal:

  mosquitto_sub {port}-v -t 'tampu/v1/{NODE}/response/me/#' &
  mosquitto_pub {port}-t tampu/v1/{NODE}/request/me -m 'Name three herbs.'
  {_command()} ask --socket {_socket(folder)} "Name three herbs."
  {_command()} status --socket {_socket(folder)}

The daemon's log: {folder / "tampu.log"}
""",
        flush=True,
    )


def _command() -> str:
    """How to call this program from the same folder: a checkout's `tampu` is not on the PATH."""
    return "tampu" if shutil.which("tampu") else os.path.relpath(Path(sys.executable).parent / "tampu")


def _status(folder: Path) -> dict[str, Any] | None:
    from agent.cli.socket_client import SocketClient

    try:
        answer: dict[str, Any] = json.loads(SocketClient(str(_socket(folder))).get_json("/health"))
    except TampuError:
        return None
    return answer


def _socket(folder: Path) -> Path:
    return folder / "tampu.sock"


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """`kill` takes the demo down like Ctrl-C does, so that nothing stays behind."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before: Callable[..., Any] | int | None = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(line: str) -> None:
    print(line, flush=True)
