"""Builds llama-cpp-python once per kind of machine and target (targets.yaml), and keeps the wheel.

The published package is source only; its plain build compiles 193 objects, of which Tampu uses 83. The wheel
is built with GGML_NATIVE (llama.cpp's default), that is, for exactly the CPU it is built on: it uses all that
CPU has, and dies with SIGILL on an older one. Hence the CPU is part of the cache key: a home directory shared
by two boards, or a disk moved to another one, gets two wheels. So are the target's flags and tools.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import apt
import lock_file
import pip_runner
import targets
import toolchain
import vulkan
from exclusive import exclusive
from steps import CommandFailed, Progress, Trouble, run, show_tail

PACKAGE = "llama-cpp-python"
HERE = Path(__file__).resolve().parent
LEAN_CMAKE = HERE / "cmake" / "lean.cmake"

# Nothing here changes what libllama can do; each leaves out a program or a library that Tampu never loads.
# The build type is Release already: scikit-build-core says so, and refuses to be told.
LEAN_FLAGS = (
    "-DLLAVA_BUILD=OFF",
    "-DLLAMA_BUILD_TOOLS=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
)

# CMake reads these by itself, so a wheel built under others is another wheel.
_COMPILER_VARIABLES = ("CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "CUDACXX", "CUDAFLAGS")


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides what the wheel contains."""

    requirement: str  # the block of the lock: version and hash of the source
    target: targets.Target
    extra_flags: str  # TAMPU_CMAKE_ARGS, e.g. -DGGML_LTO=ON

    @property
    def version(self) -> str:
        return lock_file.pinned_version(self.requirement)

    @property
    def flags(self) -> str:
        return self.target.flags_with(self.extra_flags)

    @property
    def inputs(self) -> str:
        """For the stamp of the installed wheel. Without the compiler: upgrading it asks for no new build."""
        return json.dumps(
            [
                self.requirement,
                self.flags,
                LEAN_FLAGS,
                LEAN_CMAKE.read_text(),
                sys.implementation.cache_tag,
                sysconfig.get_platform(),
                toolchain.cpu_identity(),
                [os.environ.get(name) for name in _COMPILER_VARIABLES],
            ]
        )

    @property
    def folder(self) -> Path:
        """The wheel's place in the cache. With the compilers: they decide which libraries are needed."""
        compilers = [toolchain.compiler_version(), *map(toolchain.version_of, self.target.tools)]
        digest = hashlib.sha256((self.inputs + "".join(compilers)).encode()).hexdigest()
        return cache_root() / "wheels" / f"{self.version}-{sys.implementation.cache_tag}-{digest[:16]}"


def recipe(
    run_lock: str, environ: Mapping[str, str] = os.environ, target: targets.Target | None = None
) -> Recipe:
    """For the target, else for the one TAMPU_TARGET names. Raises Trouble when there is none of that name."""
    return Recipe(
        lock_file.requirement(run_lock, PACKAGE),
        target or targets.chosen(environ),
        environ.get("TAMPU_CMAKE_ARGS", ""),
    )


def cache_root() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tampu"


def cached(wanted: Recipe) -> Path | None:
    """The wheel, if it is in the cache and still has the digest written down when it was built."""
    for wheel in wanted.folder.glob("*.whl"):
        recorded = wheel.with_suffix(".sha256")
        if recorded.exists() and recorded.read_text() == sha256_of(wheel):
            return wheel
    return None


def check(wanted: Recipe) -> None:
    """Have here what the compilation needs, before the first long step. Raises Trouble."""
    target = wanted.target
    toolchain.check_compiler()
    apt.ensure(f"the target {target.name}", target.build_packages)
    for tool in target.tools:
        if not toolchain.find(tool):
            raise Trouble(
                f"the target {target.name} needs {tool} and there is none: install {target.tools_come_with}, "
                "then try again"
            )
    if target.headers == "vulkan":
        vulkan.ensure_headers(cache_root())


def build(wanted: Recipe, python: Path, log: Path, progress: Progress) -> Path:
    """Download, compile and cache the wheel; `python` must have the tools of build.txt. Returns its path."""
    wheels = wanted.folder.parent
    wheels.mkdir(parents=True, exist_ok=True)
    with exclusive(wheels, "another build of llama.cpp"):
        if wheel := cached(wanted):  # the other build made it meanwhile
            return wheel
        _sweep(wheels)
        with tempfile.TemporaryDirectory(prefix="building-", dir=wheels) as work:
            wheel = _compile(wanted, python, Path(work), log, progress)
            wheel.with_suffix(".sha256").write_text(sha256_of(wheel))
            # The rename is what makes the wheel exist: a build that was killed leaves no half of one.
            shutil.rmtree(wanted.folder, ignore_errors=True)
            wheel.parent.rename(wanted.folder)
    return wanted.folder / wheel.name


def _compile(wanted: Recipe, python: Path, work: Path, log: Path, progress: Progress) -> Path:
    source = _unpacked_source(wanted, python, work, log)
    finished = work / "finished"
    options = ["--verbose", "--no-deps", "--no-index", "--no-build-isolation"]
    options += ["--config-settings", f"build-dir={work / 'objects'}", "--wheel-dir", str(finished)]
    command: list[str | Path] = [python, "-m", "pip", "wheel", *options, source]
    try:
        run(command, log, env=_build_environment(wanted, work), on_line=progress.watch_ninja)
    except CommandFailed as failure:
        show_tail(
            failure.log, before="error: subprocess-exited-with-error"
        )  # after which pip talks about itself
        raise Trouble(f"llama.cpp did not compile: mend what {failure.log} names, then try again") from None
    return next(finished.glob("*.whl"))


def download_source(wanted: Recipe, python: Path, work: Path, log: Path) -> Path:
    """The pinned source package, its hash checked. Raises Trouble."""
    pinned = work / "requirement.txt"
    pinned.write_text(wanted.requirement)
    # pip prepares the metadata of what it downloads; without isolation that compiles nothing.
    arguments = ["download", "--no-deps", "--no-build-isolation", "--no-binary", PACKAGE, "--require-hashes"]
    arguments += ["--dest", str(work), "--requirement", str(pinned)]
    pip_runner.pip(python, arguments, log)
    return next(work.glob("*.tar.gz"))


def _unpacked_source(wanted: Recipe, python: Path, work: Path, log: Path) -> Path:
    archive = download_source(wanted, python, work, log.with_name("llama.cpp-download.log"))
    shutil.unpack_archive(archive, work)
    return next(path.parent for path in work.glob("*/pyproject.toml"))


def _build_environment(wanted: Recipe, work: Path) -> dict[str, str]:
    flags = [*LEAN_FLAGS, f"-DCMAKE_PROJECT_llama.cpp_INCLUDE={LEAN_CMAKE}", *place_flags(wanted)]
    return pip_runner.environment() | {
        "CMAKE_ARGS": f"{shlex.join(flags)} {wanted.flags}",
        "PATH": toolchain.search_path(),
        "CMAKE_BUILD_PARALLEL_LEVEL": str(toolchain.parallel_jobs()),
        # /tmp is RAM on many boards, and too small.
        "TMPDIR": str(work),
        # Work folders have new names each time; ccache, where there is one, then sees relative paths.
        "CCACHE_BASEDIR": str(work),
    }


def place_flags(wanted: Recipe) -> list[str]:
    """Where something lies on this box: it decides nothing about the wheel, and is in no key."""
    return vulkan.header_flags(cache_root()) if wanted.target.headers == "vulkan" else []


def _sweep(wheels: Path) -> None:
    """Work folders of builds that were killed. We hold the lock: nobody is at work in them."""
    for leftover in wheels.glob("building-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
