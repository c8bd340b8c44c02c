"""The checkout's .venv: made once, and afterwards changed only where an input changed.

Each step leaves a stamp in the venv, the digest of what it was made from, and is skipped while that is the
same. With all stamps fresh nothing is run and no network is needed. A venv has llama.cpp for one target; the
tests of another target have a venv beside it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import apt
import lean_wheel
import lock_file
import targets
import toolchain
from exclusive import exclusive
from pip_runner import pip
from steps import CommandFailed, Progress, Trouble, run, say, show_tail, step

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "build" / "lock"

# Each holds everything of the one before it, in the same versions.
LOCK_NAMES = ("run", "demo", "dev")


def setup(lock_name: str) -> Environment:
    """Bring .venv to one lock's packages, llama.cpp for TAMPU_TARGET and this project. Raises Trouble."""
    environment = Environment(ROOT / ".venv", targets.chosen())
    environment.setup(lock_name)
    return environment


def read_lock(name: str) -> str:
    return (LOCKS / f"{name}.txt").read_text()


def project_inputs() -> str:
    """The metadata, and the place: an editable install is a path."""
    return json.dumps([str(ROOT), (ROOT / "pyproject.toml").read_text()])


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Environment:
    """A venv, and the target its llama.cpp is compiled for."""

    venv: Path
    target: targets.Target

    @property
    def bin(self) -> Path:
        return self.venv / "bin"

    @property
    def python(self) -> Path:
        return self.bin / "python"

    @property
    def tampu(self) -> Path:
        return self.bin / "tampu"

    @property
    def stamps(self) -> Path:
        return self.venv / "stamps"

    @property
    def logs(self) -> Path:
        return self.venv / "log"

    def setup(self, lock_name: str) -> None:
        """Bring it to the packages of one lock, llama.cpp and this project. Raises Trouble."""
        with exclusive(ROOT / "build", "another build script in this checkout"):
            recipe = lean_wheel.recipe(read_lock("run"), target=self.target)
            self.discard_unusable_venv()
            self.follow_the_checkout()
            self.check_box(recipe, lock_name)
            changed = [
                self.once("venv", "", self.make_venv),
                self.once("build tools", read_lock("build"), self.install_build_tools),
                self.once("llama.cpp", recipe.inputs, lambda progress: self.install_engine(recipe, progress)),
                not self.has_packages(lock_name)
                and self.once("packages", read_lock(lock_name), self.packages(lock_name)),
                self.once("tampu", project_inputs(), self.install_project),
            ]
        if not any(changed):
            say(f"  {self.venv.name} is up to date")

    # Deciding what is left to do.

    def once(self, name: str, inputs: str, work: Callable[[Progress], None]) -> bool:
        """Do a step unless it was done with the same inputs; True when it was done now."""
        if self.is_fresh(name, inputs):
            return False
        stamp = self.stamps / name
        stamp.unlink(missing_ok=True)  # a step that dies half-way must not look done
        with step(name) as progress:
            work(progress)
        stamp.parent.mkdir(parents=True, exist_ok=True)
        stamp.write_text(digest(inputs))
        return True

    def is_fresh(self, name: str, inputs: str) -> bool:
        stamp = self.stamps / name
        return stamp.exists() and stamp.read_text() == digest(inputs)

    def has_packages(self, lock_name: str) -> bool:
        """Is this lock installed, or a wider one that holds all of it?"""
        wider = LOCK_NAMES[LOCK_NAMES.index(lock_name) :]
        return any(self.is_fresh("packages", read_lock(name)) for name in wider)

    def check_box(self, recipe: lean_wheel.Recipe, lock_name: str) -> None:
        """What would stop a long step is said before the first one starts."""
        engine_is_installed = self.is_fresh("llama.cpp", recipe.inputs)
        if engine_is_installed and self.has_packages(lock_name):
            return
        toolchain.check_disk(ROOT, lean_wheel.cache_root())
        if not engine_is_installed:
            apt.ensure(f"the target {self.target.name}", self.target.run_packages)
            if not lean_wheel.cached(recipe):
                lean_wheel.check(recipe)

    # The steps.

    def discard_unusable_venv(self) -> None:
        """A venv whose Python is gone, or has another version than ours, is of no use any more."""
        config = self.venv / "pyvenv.cfg"
        version = f"{sys.version_info.major}.{sys.version_info.minor}."
        usable = self.python.exists() and config.exists() and f" = {version}" in config.read_text()
        if self.venv.exists() and not usable:
            shutil.rmtree(self.venv)

    def follow_the_checkout(self) -> None:
        """A venv's scripts name their interpreter by absolute path: rewrite it after the checkout moved."""
        place = self.stamps / "place"
        if not place.exists() or place.read_text() == str(self.venv):
            return
        for script in self.bin.iterdir():
            content = script.read_bytes()
            if not script.is_symlink() and b"\0" not in content:
                script.write_bytes(content.replace(place.read_bytes(), str(self.venv).encode()))
        place.write_text(str(self.venv))

    def make_venv(self, progress: Progress) -> None:
        try:
            run([sys.executable, "-m", "venv", self.venv], self.logs / "venv.log")
        except CommandFailed as failure:
            show_tail(failure.log)
            raise Trouble(
                f"no venv could be made: run '{sys.executable} -m venv {self.venv}' to see why"
            ) from None
        self.stamps.mkdir(exist_ok=True)
        (self.stamps / "place").write_text(str(self.venv))

    def install_build_tools(self, progress: Progress) -> None:
        pip(
            self.python,
            ["install", "--require-hashes", "--requirement", str(LOCKS / "build.txt")],
            self.logs / "build-tools.log",
        )

    def install_engine(self, recipe: lean_wheel.Recipe, progress: Progress) -> None:
        wheel = lean_wheel.cached(recipe) or lean_wheel.build(
            recipe, self.python, self.logs / "llama.cpp.log", progress
        )
        # Forced, since a wheel built with other flags has the same version.
        arguments = ["install", "--no-deps", "--no-index", "--force-reinstall", str(wheel)]
        pip(self.python, arguments, self.logs / "llama.cpp-install.log")

    def packages(self, lock_name: str) -> Callable[[Progress], None]:
        def install(progress: Progress) -> None:
            with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
                requirements.write(lock_file.without(read_lock(lock_name), lean_wheel.PACKAGE))
                requirements.flush()
                # The lock is complete: --no-deps keeps pip from asking for the package left out.
                arguments = ["install", "--require-hashes", "--no-deps", "--requirement", requirements.name]
                pip(self.python, arguments, self.logs / "packages.log")

        return install

    def install_project(self, progress: Progress) -> None:
        arguments = ["install", "--no-deps", "--no-index", "--no-build-isolation", "--editable", str(ROOT)]
        pip(self.python, arguments, self.logs / "tampu.log")
