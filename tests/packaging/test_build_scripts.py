"""The scripts under build/: what they say when the box lacks something, and what they leave alone.

They run on a copy of the checkout, so that the venv the tests themselves stand in is never touched.
"""

from __future__ import annotations

import importlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENTRY_POINTS = ("quickstart", "test", "check", "prove", "fetch-models")
CLOSED_PORT_URL = "http://127.0.0.1:9/simple"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the scripts read of a checkout, elsewhere."""
    copy = tmp_path / "checkout"
    shutil.copytree(ROOT / "build", copy / "build", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """The only folder on PATH: it holds what a bare POSIX shell needs, and neither Python nor a compiler."""
    folder = tmp_path / "tools"
    folder.mkdir()
    dirname = shutil.which("dirname")
    assert dirname is not None
    (folder / "dirname").symlink_to(dirname)
    return folder


def run_script(
    checkout: Path, name: str, tools: Path, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run an entry point that is expected to stop early, with nothing of this shell but what is given."""
    empty_cache = str(checkout.parent / "cache")
    return subprocess.run(
        [checkout / "build" / name],
        env={"PATH": str(tools), "HOME": str(checkout.parent), "XDG_CACHE_HOME": empty_cache} | environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def write_program(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


class Build:
    """The modules of a copied build/, with every command they would run written down instead."""

    def __init__(self, checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.checkout = checkout
        self.commands: list[str] = []
        environment = self.module("environment")
        lean_wheel = self.module("lean_wheel")
        self.really_cached = lean_wheel.cached
        monkeypatch.setattr(environment, "run", self._make_venv)
        monkeypatch.setattr(environment, "pip", self._note)
        monkeypatch.setattr(lean_wheel, "cached", lambda recipe: checkout / "llama.whl")

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(name)

    def setup(self, lock_name: str) -> list[str]:
        """The last argument of every command that a setup ran."""
        self.commands.clear()
        self.module("environment").setup(lock_name)
        return list(self.commands)

    def _note(self, python: Path, arguments: list[str], log: Path) -> None:
        self.commands.append(arguments[-1])

    def _make_venv(self, command: list[str | Path], log: Path) -> None:
        self.commands.append("venv")
        bin_folder = self.checkout / ".venv" / "bin"
        bin_folder.mkdir(parents=True)
        (bin_folder / "python").touch()
        version = ".".join(map(str, sys.version_info[:3]))
        (self.checkout / ".venv" / "pyvenv.cfg").write_text(f"version = {version}\n")


@pytest.fixture
def build(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    monkeypatch.setenv("XDG_CACHE_HOME", str(checkout.parent / "cache"))
    monkeypatch.syspath_prepend(checkout / "build")
    for module in (checkout / "build").glob("*.py"):
        monkeypatch.delitem(sys.modules, module.stem, raising=False)
    return Build(checkout, monkeypatch)


# What the shell part says.


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_without_python_it_says_how_to_get_one(checkout: Path, tools: Path, name: str) -> None:
    """Without any Python every entry point stops with one sentence and the command that mends it."""
    done = run_script(checkout, name, tools)
    assert done.returncode == 1
    assert done.stderr.startswith("tampu: Python 3.11 or newer is needed and none was found: ")
    assert "sudo apt-get install python3 python3-venv" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_old_python_is_named_with_its_version(checkout: Path, tools: Path) -> None:
    """When the only Python is too old the sentence says which one that is, and how old."""
    write_program(tools / "python3", "echo 3.9")
    done = run_script(checkout, "quickstart", tools)
    assert done.returncode == 1
    assert "Python 3.11 or newer is needed and python3 is 3.9" in done.stderr


def test_a_newer_python_beside_an_old_one_is_found(checkout: Path, tools: Path) -> None:
    """An old `python3` does not matter where a newer one is installed under its own name."""
    write_program(tools / "python3", "echo 3.9")
    write_program(tools / "python3.12", f'exec {sys.executable} "$@"')
    done = run_script(checkout, "prove", tools)
    assert done.returncode == 0
    assert "peers" in done.stdout


def test_a_python_without_venv_is_explained(checkout: Path, tools: Path) -> None:
    """A Python without ensurepip, as Debian's is at first, leads to the package that brings it."""
    write_program(tools / "python3", "case $2 in *version_info*) echo 3.12 ;; *) exit 1 ;; esac")
    done = run_script(checkout, "quickstart", tools)
    assert done.returncode == 1
    assert "cannot make a venv: run 'sudo apt-get install python3-venv'" in done.stderr


def test_the_named_python_is_the_only_one_tried(checkout: Path, tools: Path) -> None:
    """TAMPU_PYTHON that does not run is an error, not a reason to take another Python silently."""
    write_program(tools / "python3", f'exec {sys.executable} "$@"')
    done = run_script(checkout, "prove", tools, TAMPU_PYTHON="/nowhere/python3")
    assert done.returncode == 1
    assert "TAMPU_PYTHON=/nowhere/python3 does not run" in done.stderr


# What is checked before the first long step.


def test_without_a_compiler_nothing_is_begun(checkout: Path, tools: Path) -> None:
    """A missing C++ compiler is said at once, before a venv is made or anything is downloaded."""
    done = run_script(checkout, "quickstart", tools, TAMPU_PYTHON=sys.executable)
    assert done.returncode == 1
    assert "no C++ compiler was found: run 'sudo apt-get install g++'" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_compiler_that_does_not_compile_is_named(checkout: Path, tools: Path) -> None:
    """A compiler without its headers or linker is found out by compiling, not by its presence."""
    write_program(tools / "broken-c++", "exit 1")
    done = run_script(checkout, "check", tools, TAMPU_PYTHON=sys.executable, CXX="broken-c++")
    assert done.returncode == 1
    assert "broken-c++ cannot compile a C++ program" in done.stderr


def test_a_full_disk_is_said_with_both_figures(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """With too little free space the sentence has what is free and what is needed."""
    usage = SimpleNamespace(free=200_000_000)
    monkeypatch.setattr(build.module("toolchain").shutil, "disk_usage", lambda path: usage)
    with pytest.raises(build.module("steps").Trouble, match=r"has 0\.2 GB free and 1\.5 GB are needed"):
        build.setup("demo")
    assert build.commands == []


def test_an_unreachable_index_is_not_a_stack_of_retries(checkout: Path, tools: Path) -> None:
    """When nothing answers at the package index, one sentence says so and names the setting."""
    write_program(tools / "c++", "exit 0")
    done = run_script(
        checkout,
        "check",
        tools,
        TAMPU_PYTHON=sys.executable,
        PIP_INDEX_URL=CLOSED_PORT_URL,
        PIP_CONFIG_FILE=os.devnull,
        PIP_RETRIES="0",
    )
    assert done.returncode == 1
    assert "the package index cannot be reached: check the network or set PIP_INDEX_URL" in done.stderr
    assert done.stderr.count("\n") == 1


# What a second run does.


def test_a_second_setup_runs_nothing(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    """With nothing changed no command is run at all, so it is quick and needs no network."""
    assert len(build.setup("dev")) == 5
    capsys.readouterr()
    assert build.setup("dev") == []
    assert capsys.readouterr().out == "  .venv is up to date\n"


def test_a_narrower_set_of_packages_is_already_there(build: Build) -> None:
    """After a setup for tests the quickstart installs nothing: its packages are among them."""
    build.setup("dev")
    assert build.setup("demo") == []


def test_a_wider_set_of_packages_adds_only_itself(build: Build) -> None:
    """After a quickstart the tests install their packages and leave llama.cpp and the venv alone."""
    build.setup("demo")
    assert len(build.setup("dev")) == 1


def test_a_changed_lock_installs_only_what_it_is_about(build: Build) -> None:
    """A new pin in one lock repeats the step of that lock and no other."""
    build.setup("dev")
    with (build.checkout / "build" / "lock" / "build.txt").open("a") as lock:
        lock.write("# changed\n")
    assert build.setup("dev") == [str(build.checkout / "build" / "lock" / "build.txt")]


def test_a_step_that_failed_is_done_again(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setup that died half-way goes on at the step that died."""
    environment = build.module("environment")

    def interrupted(python: Path, arguments: list[str], log: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(environment, "pip", interrupted)
        with pytest.raises(KeyboardInterrupt):
            build.setup("run")
    assert "venv" not in build.setup("run")
    assert len(build.commands) == 4


def test_a_moved_checkout_is_followed(build: Build) -> None:
    """After the checkout was moved, scripts in .venv start the Python of the new place."""
    build.setup("run")
    script = build.checkout / ".venv" / "bin" / "tampu"
    script.write_text("#!/old/place/.venv/bin/python\n")
    (build.checkout / ".venv" / "stamps" / "place").write_text("/old/place/.venv")
    build.setup("run")
    assert script.read_text() == f"#!{build.checkout}/.venv/bin/python\n"


def test_another_python_gets_a_new_venv(build: Build) -> None:
    """A venv of another Python version is made anew, since its packages are of no use to this one."""
    build.setup("run")
    (build.checkout / ".venv" / "pyvenv.cfg").write_text("version = 3.1.0\n")
    assert build.setup("run")[0] == "venv"


# The cached wheel of llama.cpp.


def wheel_recipe(checkout: Path, **environ: str) -> object:
    lock = (checkout / "build" / "lock" / "run.txt").read_text()
    return importlib.import_module("lean_wheel").recipe(lock, environ)


def test_other_flags_are_another_wheel(build: Build) -> None:
    """TAMPU_CMAKE_ARGS changes where the wheel lies, so a GPU build and a CPU build live side by side."""
    plain = wheel_recipe(build.checkout)
    cuda = wheel_recipe(build.checkout, TAMPU_CMAKE_ARGS="-DGGML_CUDA=on")
    assert plain.folder != cuda.folder
    assert plain.inputs != cuda.inputs


def test_a_damaged_wheel_is_not_used(build: Build) -> None:
    """A wheel whose digest is not the one written down at its build counts as absent."""
    recipe = wheel_recipe(build.checkout)
    recipe.folder.mkdir(parents=True)
    wheel = recipe.folder / "llama.whl"
    wheel.write_bytes(b"whole")
    wheel.with_suffix(".sha256").write_text(build.module("lean_wheel").sha256_of(wheel))
    assert build.really_cached(recipe) == wheel
    wheel.write_bytes(b"damaged")
    assert build.really_cached(recipe) is None


def test_a_killed_build_leaves_nothing_behind(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a stopped build nor the remains of one that was killed are taken for a wheel or kept."""
    lean_wheel = build.module("lean_wheel")
    recipe = wheel_recipe(build.checkout)
    remains = recipe.folder.parent / "building-remains"
    remains.mkdir(parents=True)

    def stopped(wanted: object, python: Path, work: Path, log: Path, progress: object) -> Path:
        (work / "half.whl").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(lean_wheel, "cached", build.really_cached)
    monkeypatch.setattr(lean_wheel, "_compile", stopped)
    with pytest.raises(KeyboardInterrupt):
        lean_wheel.build(recipe, Path(sys.executable), build.checkout / "log", None)
    assert list(recipe.folder.parent.iterdir()) == []


# The vocabularies and templates that the tests tokenise with.


def corpus_ensure(build: Build, monkeypatch: pytest.MonkeyPatch, *extra_members: str) -> Path:
    """Run ensure() on a source package of a few small files; returns the folder it is to make."""
    models = "llama_cpp_python-1/vendor/llama.cpp/models"
    members = [f"{models}/ggml-vocab-a.gguf", f"{models}/templates/a.jinja", *extra_members]

    def download(recipe: object, python: Path, work: Path, log: Path) -> Path:
        build.commands.append("download")
        with tarfile.open(work / "source.tar.gz", "w:gz") as tar:
            for name in members:
                member = tarfile.TarInfo(name)
                member.size = 5
                tar.addfile(member, io.BytesIO(b"small"))
        return work / "source.tar.gz"

    corpus = build.module("corpus")
    monkeypatch.setattr(build.module("lean_wheel"), "download_source", download)
    recipe = wheel_recipe(build.checkout)
    corpus.ensure(recipe, Path(sys.executable), build.checkout / "log")
    folder: Path = corpus.folder(recipe)
    return folder


def test_the_vocabularies_are_fetched_once(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Afterwards nothing is run, so that the tests work without a network."""
    for _ in range(2):
        folder = corpus_ensure(build, monkeypatch)
    assert build.commands == ["download"]
    assert (folder / "ggml-vocab-a.gguf").read_bytes() == b"small"
    assert (folder / "templates" / "a.jinja").read_bytes() == b"small"


def test_nothing_else_is_unpacked_from_the_source(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the rest of the source nor what would land outside the folder."""
    models = "llama_cpp_python-1/vendor/llama.cpp/models"
    strange = [f"{models}/templates/../../../x.jinja", f"{models}/ggml-vocab-a.gguf.inp", "/x.jinja", "x"]
    folder = corpus_ensure(build, monkeypatch, *strange)
    names = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    assert names == {"ggml-vocab-a.gguf", "templates", "templates/a.jinja"}
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_stopped_unpacking_leaves_nothing_behind(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the files must not be taken for all of them, and what a killed one left is swept."""
    corpus = build.module("corpus")
    remains = corpus.folder(wheel_recipe(build.checkout)).parent / "unpacking-remains"
    remains.mkdir(parents=True)
    really_unpack = corpus._unpack

    def stopped(archive: Path, target: Path) -> None:
        really_unpack(archive, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(corpus, "_unpack", stopped)
        with pytest.raises(KeyboardInterrupt):
            corpus_ensure(build, monkeypatch)
    assert list(remains.parent.iterdir()) == []
    assert corpus_ensure(build, monkeypatch).is_dir()


# Progress.


def test_progress_is_a_line_every_tenth(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    """Away from a terminal a long compilation prints nine lines, not one for each of ninja's."""
    with build.module("steps").step("llama.cpp") as progress:
        for number in range(1, 84):
            progress.watch_ninja(f"  [{number}/83] /usr/bin/c++ -O3 -c ggml.c\n")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert "10 % (9/83" in lines[0]


# The broker.


def test_a_missing_broker_is_named_with_its_package(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where apt must not be used, the sentence says which programs are missing and what brings them."""
    broker = build.module("broker")
    monkeypatch.setattr(broker.shutil, "which", lambda name, path=None: None)
    monkeypatch.setattr(broker.sys, "platform", "linux")
    monkeypatch.setenv("TAMPU_TEST_NO_APT", "1")
    with pytest.raises(build.module("steps").Trouble) as trouble:
        broker.ensure()
    assert str(trouble.value) == (
        "the integration tests need mosquitto and mosquitto_pub: "
        "run 'sudo apt-get install mosquitto mosquitto-clients', then try again"
    )


def test_a_broker_that_is_there_is_left_alone(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the broker installed nothing is installed, whoever runs the tests."""
    broker = build.module("broker")
    monkeypatch.setattr(broker.shutil, "which", lambda name, path=None: f"/usr/sbin/{name}")
    monkeypatch.setattr(broker, "install", lambda: pytest.fail("tried to install"))
    broker.ensure()


# The folder itself.


def test_build_is_scripts_and_not_a_package() -> None:
    """An __init__.py in build/ would make it a package that shadows PyPI's `build`."""
    assert not (ROOT / "build" / "__init__.py").exists()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only a checkout has an ignore list that matters")
def test_git_does_not_ignore_the_scripts() -> None:
    """Stock ignore lists leave out build/, where this project has its scripts."""
    ignored = subprocess.run(["git", "check-ignore", "build/bootstrap.py"], cwd=ROOT, timeout=10, check=False)
    assert ignored.returncode == 1
