"""The installed daemon behind a real broker, and devices that look at their watches."""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.client import TampuClient
from tests.bench.memory import Memory, memory_of
from tests.support.processes import Daemon, Mosquitto, real_daemon

NODE = "box"
ANSWER_WITHIN_S = 600.0


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that reached the device: when, and how many characters."""

    at: float
    num_chars: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as its device saw it; times are of the device's own monotonic clock.

    `done` is the terminal frame, with the engine's own counts and times.
    """

    asked_at: float
    pieces: tuple[Piece, ...]
    ended_at: float
    done: dict[str, Any]

    @property
    def first_at(self) -> float:
        return self.pieces[0].at

    @property
    def ttft_s(self) -> float:
        """From the publish to the first text."""
        return self.first_at - self.asked_at

    @property
    def num_tokens(self) -> int:
        return int(self.done["usage"]["completion"])

    @property
    def num_prompt(self) -> int:
        return int(self.done["usage"]["prompt"])

    @property
    def num_cached(self) -> int:
        return int(self.done["usage"]["cached"])

    @property
    def num_prefilled(self) -> int:
        """Prompt tokens that were really computed."""
        return self.num_prompt - self.num_cached

    @property
    def decode_rate(self) -> float:
        """Tokens per second after the first one: the first is prefill's."""
        return (self.num_tokens - 1) / (self.ended_at - self.first_at)

    @property
    def engine_decode_rate(self) -> float:
        """The same by the engine's clock, before pipe, daemon, broker and network."""
        return (self.num_tokens - 1) / float(self.done["timings"]["decode_s"])

    @property
    def engine_ttft_s(self) -> float:
        """From the engine's having the prompt's tokens to its first token."""
        timings = self.done["timings"]
        return float(timings["queue_s"]) + float(timings["prefill_s"])

    def tokens_by(self, at: float) -> float:
        """Tokens that had arrived by then. Frames count no tokens, so their share of the text stands in."""
        num_chars = sum(piece.num_chars for piece in self.pieces if piece.at <= at)
        return self.num_tokens * num_chars / sum(piece.num_chars for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Crowd:
    """Answers to devices that asked at the same moment."""

    answers: tuple[Answer, ...]

    @property
    def decode_rate(self) -> float:
        """Tokens per second of all together, while every one of them was streaming."""
        start = max(answer.first_at for answer in self.answers)
        end = min(answer.ended_at for answer in self.answers)
        if end <= start:
            raise ValueError("the first answer ended before the last one began: ask for more --tokens")
        return sum(answer.tokens_by(end) - answer.tokens_by(start) for answer in self.answers) / (end - start)

    @property
    def overall_rate(self) -> float:
        """Tokens per second from the first publish to the last end, prompts and all."""
        start = min(answer.asked_at for answer in self.answers)
        end = max(answer.ended_at for answer in self.answers)
        return sum(answer.num_tokens for answer in self.answers) / (end - start)


@dataclass(slots=True)
class Box:
    """A running daemon. Each question comes from a new client: nobody's own words are in a cache for it."""

    daemon: Daemon
    broker_port: int
    _clients: Iterator[int] = field(default_factory=itertools.count)

    def ask(self, prompt: str, num_tokens: int) -> Answer:
        """Ask greedily for exactly so many tokens. Raises ValueError when the answer is shorter."""
        return self.ask_at_once([prompt], num_tokens).answers[0]

    def ask_at_once(self, prompts: Sequence[str], num_tokens: int) -> Crowd:
        """The same from several devices, each with a connection of its own."""
        start = threading.Barrier(len(prompts))
        with ThreadPoolExecutor(len(prompts)) as devices:
            asked = [
                devices.submit(self._ask, f"device-{next(self._clients)}", prompt, num_tokens, start)
                for prompt in prompts
            ]
        return Crowd(tuple(future.result() for future in asked))

    def memory(self) -> tuple[Memory, Memory]:
        """Of the daemon and of its engine process."""
        assert self.daemon.process is not None
        return memory_of(self.daemon.process.pid), memory_of(self.daemon.engine_pid())

    def _ask(self, name: str, prompt: str, num_tokens: int, start: threading.Barrier) -> Answer:
        options = {"max_tokens": num_tokens, "temperature": 0, "timeout_s": ANSWER_WITHIN_S}
        with TampuClient("127.0.0.1", node=NODE, client=name, port=self.broker_port) as device:
            start.wait()
            asked_at = time.monotonic()
            said = device.stream(prompt, **options)
            pieces = tuple(Piece(time.monotonic(), len(text)) for text in said)
            ended_at = time.monotonic()
        assert said.frame is not None
        answer = Answer(asked_at, pieces, ended_at, said.frame)
        if answer.num_tokens != num_tokens:
            raise ValueError(f"the answer to {prompt[-60:]!r} ended after {answer.num_tokens} tokens")
        return answer


@contextlib.contextmanager
def running_box(folder: Path, models: Path, threads: int) -> Iterator[Box]:
    """Broker and daemon until the end of the block, set up as they come; `folder` takes their files."""
    broker = Mosquitto(folder, persistence=False)
    broker.start()
    tree = {
        "node": NODE,
        "mqtt": {"port": broker.port},
        "models": {"folder": str(models)},
        "engine": {"threads": threads},
    }
    daemon = real_daemon(folder, tree)
    try:
        daemon.start()
        daemon.wait_online()
        yield Box(daemon, broker.port)
        daemon.stop()
    finally:
        daemon.kill()
        broker.stop()
