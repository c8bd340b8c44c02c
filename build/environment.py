"""The checkout's .venv: made once, and afterwards changed only where an input changed.

Each step leaves a stamp in .venv, the digest of what it was made from, and is skipped while that is the same.
With all stamps fresh nothing is run and no network is needed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import lean_wheel
import lock_file
import toolchain
from exclusive import exclusive
from pip_runner import pip
from steps import CommandFailed, Progress, Trouble, run, say, show_tail, step

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
BIN = VENV / "bin"
PYTHON = BIN / "python"
TAMPU = BIN / "tampu"
LOCKS = ROOT / "build" / "lock"
STAMPS = VENV / "stamps"
LOGS = VENV / "log"

# Each holds everything of the one before it, in the same versions.
LOCK_NAMES = ("run", "demo", "dev")


def setup(lock_name: str) -> None:
    """Bring .venv to the packages of one lock, llama.cpp and this project. Raises Trouble."""
    with exclusive(ROOT / "build", "another build script in this checkout"):
        recipe = lean_wheel.recipe(read_lock("run"))
        discard_unusable_venv()
        follow_the_checkout()
        check_box(recipe, lock_name)
        changed = [
            once("venv", "", make_venv),
            once("build tools", read_lock("build"), install_build_tools),
            once("llama.cpp", recipe.inputs, lambda progress: install_engine(recipe, progress)),
            not has_packages(lock_name) and once("packages", read_lock(lock_name), packages(lock_name)),
            once("tampu", project_inputs(), install_project),
        ]
    if not any(changed):
        say("  .venv is up to date")


# Deciding what is left to do.


def once(name: str, inputs: str, work: Callable[[Progress], None]) -> bool:
    """Do a step unless it was done with the same inputs; True when it was done now."""
    if is_fresh(name, inputs):
        return False
    stamp = STAMPS / name
    stamp.unlink(missing_ok=True)  # a step that dies half-way must not look done
    with step(name) as progress:
        work(progress)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    stamp.write_text(digest(inputs))
    return True


def is_fresh(name: str, inputs: str) -> bool:
    stamp = STAMPS / name
    return stamp.exists() and stamp.read_text() == digest(inputs)


def has_packages(lock_name: str) -> bool:
    """Is this lock installed, or a wider one that holds all of it?"""
    wider = LOCK_NAMES[LOCK_NAMES.index(lock_name) :]
    return any(is_fresh("packages", read_lock(name)) for name in wider)


def check_box(recipe: lean_wheel.Recipe, lock_name: str) -> None:
    """What would stop a long step is said before the first one starts."""
    engine_is_installed = is_fresh("llama.cpp", recipe.inputs)
    if engine_is_installed and has_packages(lock_name):
        return
    toolchain.check_disk(ROOT, lean_wheel.cache_root())
    if not engine_is_installed and not lean_wheel.cached(recipe):
        toolchain.check_compiler()


def read_lock(name: str) -> str:
    return (LOCKS / f"{name}.txt").read_text()


def project_inputs() -> str:
    """The metadata, and the place: an editable install is a path."""
    return json.dumps([str(ROOT), (ROOT / "pyproject.toml").read_text()])


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# The steps.


def discard_unusable_venv() -> None:
    """A venv whose Python is gone, or has another version than ours, is of no use any more."""
    config = VENV / "pyvenv.cfg"
    version = f"{sys.version_info.major}.{sys.version_info.minor}."
    usable = PYTHON.exists() and config.exists() and f" = {version}" in config.read_text()
    if VENV.exists() and not usable:
        shutil.rmtree(VENV)


def follow_the_checkout() -> None:
    """A venv's scripts name their interpreter by its absolute path: rewrite it after the checkout moved."""
    place = STAMPS / "place"
    if not place.exists() or place.read_text() == str(VENV):
        return
    for script in BIN.iterdir():
        content = script.read_bytes()
        if not script.is_symlink() and b"\0" not in content:
            script.write_bytes(content.replace(place.read_bytes(), str(VENV).encode()))
    place.write_text(str(VENV))


def make_venv(progress: Progress) -> None:
    try:
        run([sys.executable, "-m", "venv", VENV], LOGS / "venv.log")
    except CommandFailed as failure:
        show_tail(failure.log)
        raise Trouble(f"no venv could be made: run '{sys.executable} -m venv {VENV}' to see why") from None
    STAMPS.mkdir(exist_ok=True)
    (STAMPS / "place").write_text(str(VENV))


def install_build_tools(progress: Progress) -> None:
    pip(
        PYTHON,
        ["install", "--require-hashes", "--requirement", str(LOCKS / "build.txt")],
        LOGS / "build-tools.log",
    )


def install_engine(recipe: lean_wheel.Recipe, progress: Progress) -> None:
    wheel = lean_wheel.cached(recipe) or lean_wheel.build(recipe, PYTHON, LOGS / "llama.cpp.log", progress)
    # Forced, since a wheel built with other flags has the same version.
    arguments = ["install", "--no-deps", "--no-index", "--force-reinstall", str(wheel)]
    pip(PYTHON, arguments, LOGS / "llama.cpp-install.log")


def packages(lock_name: str) -> Callable[[Progress], None]:
    def install(progress: Progress) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
            requirements.write(lock_file.without(read_lock(lock_name), lean_wheel.PACKAGE))
            requirements.flush()
            # The lock is complete: --no-deps keeps pip from asking for the package left out.
            arguments = ["install", "--require-hashes", "--no-deps", "--requirement", requirements.name]
            pip(PYTHON, arguments, LOGS / "packages.log")

    return install


def install_project(progress: Progress) -> None:
    arguments = ["install", "--no-deps", "--no-index", "--no-build-isolation", "--editable", str(ROOT)]
    pip(PYTHON, arguments, LOGS / "tampu.log")
