"""llama.cpp's own benchmarks, set as the engine sets llama.cpp.

`llama-bench` times one stream, `llama-batched-bench` several in one batch. Both call llama.cpp from C++
with no sampling, no text and no transport: what they reach is the ceiling of this box.
"""

import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.engine_process import SPIN_COUNT
from steps import Trouble
from tests.bench.memory import Memory, peak_memory

# The slowest board this is for takes seconds a run; a tool that hangs should not hang the benchmark.
TIMEOUT_S = 600
CELL_BLOCK = 256


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of one shape that are computed together; `is_shared`: over one prompt, computed once."""

    num_prompt: int
    num_tokens: int
    num_sequences: int
    is_shared: bool = False


@dataclass(frozen=True, slots=True)
class Batched:
    """How long a batch took: all prompts first, then one token of each sequence in every step."""

    prefill_s: float
    decode_s: float
    num_decoded: int

    @property
    def decode_rate(self) -> float:
        """Tokens per second, all sequences together."""
        return self.num_decoded / self.decode_s

    @property
    def overall_rate(self) -> float:
        """The same with the time of the prompts in it."""
        return self.num_decoded / (self.prefill_s + self.decode_s)


@dataclass(frozen=True, slots=True)
class LlamaTools:
    """Both programs on one model, set as the engine sets llama.cpp: weights mapped and not repacked."""

    folder: Path
    model: Path
    num_threads: int

    def decode_rate(self, num_tokens: int, *, depth: int = 0, spin_count: str | None = SPIN_COUNT) -> float:
        """Tokens per second of one stream after `depth` tokens; `spin_count` None leaves OpenMP's default."""
        command = self._bench(num_prompt=0, num_tokens=num_tokens, depth=depth)
        return float(json.loads(_output(command, spin_count))[0]["avg_ts"])

    def prefill_s(self, num_prompt: int, *, depth: int = 0) -> float:
        """Seconds for a prompt of so many tokens."""
        command = self._bench(num_prompt=num_prompt, num_tokens=0, depth=depth)
        return num_prompt / float(json.loads(_output(command))[0]["avg_ts"])

    def batched(self, batch: Batch, *, unified: bool = False) -> Batched:
        """`unified`: all sequences share one KV cache, as in the engine; by default each has its own."""
        # Each sequence's own cache is a whole number of blocks of CELL_BLOCK cells.
        n_ctx = batch.num_sequences * (batch.num_prompt + batch.num_tokens + CELL_BLOCK)
        command = [str(self.folder / "llama-batched-bench"), *self._common, "-c", str(n_ctx)]
        command += ["-npp", str(batch.num_prompt), "-ntg", str(batch.num_tokens)]
        command += ["-npl", str(batch.num_sequences), "--no-repack", "--output-format", "jsonl"]
        command += ["--kv-unified"] if unified else []
        command += ["-pps"] if batch.is_shared else []
        row = _json_row(_output(command))
        return Batched(row["t_pp"], row["t_tg"], row["pl"] * row["tg"])

    def peak_memory(self, num_tokens: int) -> Memory:
        """Of `llama-bench` while it decodes one stream."""
        return peak_memory(self._bench(num_prompt=0, num_tokens=num_tokens, depth=0))

    def _bench(self, *, num_prompt: int, num_tokens: int, depth: int) -> list[str]:
        sizes = ["-p", str(num_prompt), "-n", str(num_tokens), "-d", str(depth), "-r", "1"]
        return [str(self.folder / "llama-bench"), *self._common, *sizes, "--repack", "0", "-o", "json"]

    @property
    def _common(self) -> list[str]:
        return ["-m", str(self.model), "-t", str(self.num_threads), "--load-mode", "mmap"]


def _output(command: Sequence[str], spin_count: str | None = SPIN_COUNT) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    if spin_count is not None:
        environment["GOMP_SPINCOUNT"] = spin_count
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Trouble(f"{shlex.join(command)} ended with status {done.returncode}: {' '.join(last)}")
    return done.stdout


def _json_row(output: str) -> dict[str, Any]:
    """The one line of JSON among llama-batched-bench's log lines."""
    rows = [line for line in output.splitlines() if line.startswith("{")]
    if not rows:
        raise Trouble("llama-batched-bench measured nothing: does the context hold all sequences?")
    row: dict[str, Any] = json.loads(rows[-1])
    return row
