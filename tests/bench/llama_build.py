"""Builds llama.cpp's own programs from the source that the installed llama-cpp-python was built from.

With the compiler, the flags and the helpers of build/, as the wheel is, and kept in Tampu's cache.
"""

import hashlib
import shlex
import shutil
import tempfile
from pathlib import Path

import lean_wheel
import pip_runner
import toolchain
from exclusive import exclusive
from steps import CommandFailed, Progress, Trouble, run, show_tail, step

ROOT = Path(__file__).resolve().parents[2]
VENV_BIN = ROOT / ".venv" / "bin"
TARGETS = ("llama-bench", "llama-batched-bench", "llama-server")
# Release and GGML_NATIVE as in the wheel; the rest leaves out what the targets do not need. The server
# comes without its web pages, which would be downloaded, and without TLS.
CMAKE_FLAGS = (
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=ON",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    "-DLLAMA_OPENSSL=OFF",
)


def ensure_tools() -> Path:
    """The folder with the programs, built on first use. Raises Trouble."""
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
        with step("llama.cpp's programs") as progress:
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
    flags = [*CMAKE_FLAGS, f"-DCMAKE_MAKE_PROGRAM={VENV_BIN / 'ninja'}", *lean_wheel.place_flags(recipe)]
    flags += shlex.split(recipe.flags)
    jobs = str(toolchain.parallel_jobs())
    # Work folders have new names each time; ccache, where there is one, then sees relative paths.
    environment = pip_runner.environment() | {"CCACHE_BASEDIR": str(work)}
    log = logs / "llama-tools.log"
    try:
        run([cmake, "-S", str(source), "-B", objects, "-G", "Ninja", *flags], log, env=environment)
        build = [cmake, "--build", objects, "--parallel", jobs, "--target", *TARGETS]
        run(build, log, env=environment, on_line=progress.watch_ninja)
    except CommandFailed:
        show_tail(log)
        raise Trouble(f"llama.cpp's programs did not build: mend what {log} names, then try again") from None
    programs = work / "programs"
    programs.mkdir()
    for target in TARGETS:
        shutil.copy2(Path(objects, "bin", target), programs)
    return programs
