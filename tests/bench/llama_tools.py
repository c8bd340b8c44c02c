"""llama.cpp's own benchmarks, built from the source that the installed llama-cpp-python was built from.

`llama-bench` times one stream, `llama-batched-bench` several in one batch. Both call llama.cpp from C++
with no sampling, no text and no transport: what they reach is the ceiling of this box. They are built with
the compiler, the flags and the helpers of build/, as the wheel is.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lean_wheel
import pip_runner
import toolchain
from agent.engine_process import SPIN_COUNT
from exclusive import exclusive
from steps import CommandFailed, Progress, Trouble, run, show_tail, step
from tests.bench.memory import Memory, peak_memory

ROOT = Path(__file__).resolve().parents[2]
VENV_BIN = ROOT / ".venv" / "bin"
TARGETS = ("llama-bench", "llama-batched-bench")
# Release and GGML_NATIVE as in the wheel; the rest leaves out what the two targets do not need.
CMAKE_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
)
# The slowest board this is for takes seconds a run; a tool that hangs should not hang the benchmark.
TIMEOUT_S = 600
CELL_BLOCK = 256


# ---- building ------------------------------------------------------------------------------------


def ensure_tools() -> Path:
    """The folder with both programs, built on first use. Raises Trouble."""
    recipe = lean_wheel.recipe((ROOT / "build" / "lock" / "run.txt").read_text())
    folder = lean_wheel.cache_root() / "peers" / f"{recipe.version}-{_digest(recipe)}"
    if _is_built(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.parent, "another build of llama.cpp's tools"):
        if not _is_built(folder):
            _build(recipe, folder)
    return folder


def _is_built(folder: Path) -> bool:
    return all((folder / target).is_file() for target in TARGETS)


def _digest(recipe: lean_wheel.Recipe) -> str:
    """Differs where the programs would: another source, CPU, compiler or set of flags."""
    inputs = (recipe.inputs, toolchain.compiler_version(), *CMAKE_FLAGS)
    return hashlib.sha256("\n".join(inputs).encode()).hexdigest()[:16]


def _build(recipe: lean_wheel.Recipe, folder: Path) -> None:
    toolchain.check_disk(folder.parent)
    toolchain.check_compiler()
    logs = folder.parent / "log"
    with tempfile.TemporaryDirectory(prefix="building-", dir=folder.parent) as work:
        with step("llama.cpp's source"):
            source = _fetch_source(recipe, Path(work), logs)
        with step("llama-bench") as progress:
            programs = _compile(source, recipe, Path(work), logs, progress)
        # The rename is what makes them exist: a build that was killed leaves no half of one.
        shutil.rmtree(folder, ignore_errors=True)
        programs.rename(folder)


def _fetch_source(recipe: lean_wheel.Recipe, work: Path, logs: Path) -> Path:
    pinned = work / "requirement.txt"
    pinned.write_text(recipe.requirement)
    options = ["--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--require-hashes"]
    arguments = ["download", *options, "--dest", str(work), "--requirement", str(pinned)]
    pip_runner.pip(VENV_BIN / "python", arguments, logs / "download.log")
    shutil.unpack_archive(next(work.glob("*.tar.gz")), work)
    return next(work.glob("*/vendor/llama.cpp"))


def _compile(source: Path, recipe: lean_wheel.Recipe, work: Path, logs: Path, progress: Progress) -> Path:
    """Returns a folder with nothing but the programs."""
    cmake, objects = str(VENV_BIN / "cmake"), str(work / "objects")
    flags = [*CMAKE_FLAGS, f"-DCMAKE_MAKE_PROGRAM={VENV_BIN / 'ninja'}", *shlex.split(recipe.extra_flags)]
    jobs = str(toolchain.parallel_jobs())
    # Work folders have new names each time; ccache, where there is one, then sees relative paths.
    environment = pip_runner.environment() | {"CCACHE_BASEDIR": str(work)}
    log = logs / "llama-bench.log"
    try:
        run([cmake, "-S", str(source), "-B", objects, "-G", "Ninja", *flags], log, env=environment)
        build = [cmake, "--build", objects, "--parallel", jobs, "--target", *TARGETS]
        run(build, log, env=environment, on_line=progress.watch_ninja)
    except CommandFailed:
        show_tail(log)
        raise Trouble(f"llama-bench did not build: mend what {log} names, then try again") from None
    programs = work / "programs"
    programs.mkdir()
    for target in TARGETS:
        shutil.copy2(Path(objects, "bin", target), programs)
    return programs


# ---- running -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Batch:
    """Sequences of one shape that are computed together."""

    num_prompt: int
    num_tokens: int
    num_sequences: int


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
    """The two programs on one model, set as the engine sets llama.cpp: weights mapped and not repacked."""

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
