"""An engine process without a model: `fake_engine.py STEP_S FD`, the real loop over the fake backend.

A prompt that holds POISON kills the process when it is computed, one that holds ASSERT ends it with
llama.cpp's last words, one that holds HANG stops it there, and the answer to one that holds LONG ends
at its max_tokens. What it is told about memory it says on stderr, so that it stands in the daemon's
log. When it is measured, the repacked weights of a file called POISON kill the process, and those of
one called HANG stop it.
"""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import socket

from agent.engine import measure
from agent.engine.__main__ import serve
from agent.engine.backend import BatchRows, DecodeStatus
from agent.engine.messages import (
    PROTOCOL,
    Device,
    Hello,
    Load,
    Measure,
    MeasureMemory,
    Pipe,
    Pressure,
    ToEngine,
)
from agent.engine.sandbox import end_with_parent
from tests.support.fake_backend import END, FIRST_WORD, FakeBackend, FakeChain


def misbehave(_number: int, rows: BatchRows) -> DecodeStatus:
    """Do what the prompts in this batch ask for."""
    text = bytes(token for token in rows.tokens if token < 256)
    if b"POISON" in text:
        os.kill(os.getpid(), signal.SIGKILL)
    if b"ASSERT" in text:
        print("ggml.c:3210: GGML_ASSERT(a->ne[2] == b->ne[0]) failed", file=sys.stderr, flush=True)
        os.abort()
    if b"HANG" in text:
        time.sleep(3600)
    return DecodeStatus.OK


class TalkativeBackend(FakeBackend):
    """Ends no answer to a LONG prompt by itself."""

    def sample(self, chain: FakeChain, row: int) -> int:
        token = super().sample(chain, row)
        prompt = bytes(t for t in self._logits[row] if t < 256)
        return FIRST_WORD if token == END and b"LONG" in prompt else token


class TalkativePipe(Pipe):
    """Repeats on stderr what it is told about memory."""

    def receive(self) -> ToEngine | None:
        message = super().receive()
        if isinstance(message, Pressure):
            print(f"pressure {message.level}", file=sys.stderr, flush=True)
        if isinstance(message, Load):
            print(f"hard_bytes {message.hard_bytes}", file=sys.stderr, flush=True)
        return message


def main() -> int:
    end_with_parent()
    pipe = TalkativePipe(socket.socket(fileno=int(sys.argv[2])))
    device = Device(name="FAKE", description="no device", kind="cpu", total_bytes=0, free_bytes=0)
    pipe.send(Hello(protocol=PROTOCOL, pid=os.getpid(), build="fake", devices=(device,), system=""))
    load = pipe.receive()
    if isinstance(load, Measure | MeasureMemory):
        return measure.run(pipe.send, load, open_measured)
    return serve(pipe, load, open_backend) if isinstance(load, Load) else 0


def open_backend(load: Load) -> TalkativeBackend:
    return TalkativeBackend(
        num_cells=load.n_ctx,
        num_slots=load.n_seq_max,
        n_batch=load.n_batch,
        step_s=float(sys.argv[1]),
        script=misbehave,
    )


def open_measured(load: Load) -> TalkativeBackend:
    """As `open_backend`; repacking does what the file's name asks for."""
    if load.is_repacked and "POISON" in load.path:
        os.kill(os.getpid(), signal.SIGKILL)
    if load.is_repacked and "HANG" in load.path:
        time.sleep(3600)
    return open_backend(load)


if __name__ == "__main__":
    sys.exit(main())
