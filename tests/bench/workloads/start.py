"""From the start of the process to the first token, with the model in the page cache."""

import asyncio
import subprocess
import time

from tests.bench.bench import Bench
from tests.bench.http_client import Question, ask
from tests.bench.report import Figure, Pair
from tests.bench.sides import launched_server, launched_tampu
from tests.bench.variants import DEFAULT

VARIANT = DEFAULT.sized(4096, 8)
QUESTION = Question("Hi!", 2)
KNOCK_EVERY_S = 0.01
STARTS_WITHIN_S = 120.0


def measure(bench: Bench) -> list[Figure]:
    figures = [Figure("start to first token", "ms", VARIANT.name, at_most=1.3)]
    _pair(bench)  # fills the page cache
    return bench.repeat(figures, lambda: [_pair(bench)], 1 if bench.is_quick else 3 * bench.num_runs)


def _pair(bench: Bench) -> Pair:
    with launched_tampu(bench.setting, {}) as (side, daemon):
        assert daemon.process is not None
        ours = _first_token_s(daemon.process, side.socket)
    with launched_server(bench.setting, VARIANT) as (side, process):
        theirs = _first_token_s(process, side.socket)
    return ours * 1e3, theirs * 1e3


def _first_token_s(process: subprocess.Popen[bytes], socket: str) -> float:
    """Raises ValueError when there is none."""
    started = time.monotonic()
    return asyncio.run(_first_token_at(process, socket, started + STARTS_WITHIN_S)) - started


async def _first_token_at(process: subprocess.Popen[bytes], socket: str, deadline: float) -> float:
    """Knock until the door is open: what is refused before is asked again."""
    error = ""
    while process.poll() is None and time.monotonic() < deadline:
        stream = await ask(socket, QUESTION, "device-0")
        if not stream.error:
            return stream.arrivals[0]
        error = stream.error
        await asyncio.sleep(KNOCK_EVERY_S)
    raise ValueError(f"no token after the start: {error}")
