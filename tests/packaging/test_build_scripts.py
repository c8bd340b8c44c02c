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
from typing import Any

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
        monkeypatch.delenv("TAMPU_TARGET", raising=False)
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
        venv = Path(command[-1])
        (venv / "bin").mkdir(parents=True)
        (venv / "bin" / "python").touch()
        version = ".".join(map(str, sys.version_info[:3]))
        (venv / "pyvenv.cfg").write_text(f"version = {version}\n")


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


# Targets other than this CPU.


def offload_environment(build: Build) -> Any:
    venv = build.checkout / ".venv-vulkan"
    return build.module("environment").Environment(venv, build.module("targets").named("vulkan"))


def without_packages(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Debian on which nothing is installed, and where we may not change that."""
    monkeypatch.setattr(build.module("apt"), "missing", list)
    monkeypatch.setenv("TAMPU_TEST_NO_APT", "1")


def test_another_target_changes_only_llama_cpp(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """TAMPU_TARGET exchanges the wheel in .venv, and unset puts the other one back."""
    monkeypatch.setattr(build.module("apt"), "missing", lambda packages: [])
    build.setup("dev")
    monkeypatch.setenv("TAMPU_TARGET", "vulkan")
    assert build.setup("dev") == [str(build.checkout / "llama.whl")]
    assert build.setup("dev") == []
    monkeypatch.delenv("TAMPU_TARGET")
    assert build.setup("dev") == [str(build.checkout / "llama.whl")]


def test_a_venv_for_another_target_lies_beside_the_first(
    build: Build, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tests on a GPU take nothing from .venv and leave it as it is."""
    monkeypatch.setattr(build.module("apt"), "missing", lambda packages: [])
    build.setup("dev")
    environment = offload_environment(build)
    environment.setup("dev")
    assert (build.checkout / ".venv-vulkan" / "stamps" / "place").exists()
    build.commands.clear()
    capsys.readouterr()
    environment.setup("dev")
    assert build.setup("dev") == []
    assert capsys.readouterr().out == "  .venv-vulkan is up to date\n  .venv is up to date\n"


def test_missing_packages_are_named_before_anything_is_begun(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those needed to run it also where the wheel comes from the cache; with the command that brings them."""
    without_packages(build, monkeypatch)
    with pytest.raises(build.module("steps").Trouble) as trouble:
        offload_environment(build).setup("dev")
    assert str(trouble.value) == (
        "the target vulkan needs libvulkan1: run 'sudo apt-get install libvulkan1', then try again"
    )
    assert build.commands == []


def test_what_compiles_it_is_named_before_anything_is_begun(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Debian's packages for Vulkan, with the command; for CUDA the compiler, and what it comes with."""
    lean_wheel, toolchain = build.module("lean_wheel"), build.module("toolchain")
    without_packages(build, monkeypatch)
    monkeypatch.setattr(toolchain, "check_compiler", lambda: None)
    monkeypatch.setattr(toolchain, "find", lambda tool: None)
    with pytest.raises(
        build.module("steps").Trouble, match="needs glslc and spirv-headers and libvulkan-dev"
    ):
        lean_wheel.check(wheel_recipe(build.checkout, TAMPU_TARGET="vulkan"))
    with pytest.raises(build.module("steps").Trouble, match="nvcc and there is none: install nvidia-jetpack"):
        lean_wheel.check(wheel_recipe(build.checkout, TAMPU_TARGET="cuda-orin"))


def test_an_unknown_target_stops_before_anything_is_begun(checkout: Path, tools: Path) -> None:
    """The sentence lists the names there are."""
    done = run_script(checkout, "check", tools, TAMPU_PYTHON=sys.executable, TAMPU_TARGET="cuba")
    assert done.returncode == 1
    assert done.stderr.startswith("tampu: there is no target cuba: set TAMPU_TARGET to one of cpu, ")
    assert not (checkout / ".venv").exists()


def test_the_tests_on_a_gpu_say_how_to_run_them(checkout: Path, tools: Path) -> None:
    """Named without the variable they are refused, rather than run against a build that has no GPU."""
    (checkout / "tests" / "vulkan").mkdir(parents=True)
    command = [checkout / "build" / "test", "tests/vulkan"]
    environment = {"PATH": str(tools), "HOME": str(checkout.parent), "TAMPU_PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    assert "run 'TAMPU_TEST_VULKAN=1 ./build/test tests/vulkan'" in done.stderr


@pytest.mark.parametrize(
    ("variable", "arguments", "ran"),
    [
        ("", [], ["here"]),
        ("1", [], ["here", "tests/vulkan"]),
        ("1", ["tests/unit"], ["here tests/unit"]),
        ("1", ["tests/vulkan", "-k", "some"], ["tests/vulkan -k some"]),
        ("1", ["tests/unit", "tests/vulkan", "-x"], ["here tests/unit -x", "tests/vulkan -x"]),
    ],
)
def test_the_tests_on_a_gpu_are_asked_for(
    build: Build, monkeypatch: pytest.MonkeyPatch, variable: str, arguments: list[str], ran: list[str]
) -> None:
    """Only with TAMPU_TEST_VULKAN=1, and then in the venv that has such a llama.cpp."""
    (build.checkout / "tests" / "unit").mkdir(parents=True)
    (build.checkout / "tests" / "vulkan").mkdir()
    bootstrap = build.module("bootstrap")
    tiers: list[str] = []

    def note(*words: str) -> int:
        tiers.append(" ".join(words))
        return 0

    monkeypatch.setenv("TAMPU_TEST_VULKAN", variable)
    monkeypatch.setattr(bootstrap, "test_here", lambda arguments: note("here", *arguments))
    monkeypatch.setattr(bootstrap, "test_on_vulkan", lambda arguments: note(*arguments))
    assert bootstrap.test(arguments) == 0
    assert tiers == ran


# The Vulkan headers.


def vulkan_on_an_old_debian(build: Build, monkeypatch: pytest.MonkeyPatch, content: str) -> Any:
    """The module, with headers of the system that are too old, and Debian 13's having this content."""
    vulkan = build.module("vulkan")
    keys = build.checkout / "keys.gpg"
    keys.touch()

    def run(command: list[str | Path], log: Path, cwd: Path | None = None) -> None:
        build.commands.append(f"{command[0]} {command[-1]}")
        if command[-1] == "libvulkan-dev":
            assert cwd is not None
            (cwd / "libvulkan-dev_1.4_all.deb").touch()
        if command[0] == "dpkg":
            header = Path(command[-1]) / "usr" / "include" / "vulkan" / "vulkan_core.h"
            header.parent.mkdir(parents=True)
            header.write_text(content)

    monkeypatch.setattr(vulkan, "run", run)
    monkeypatch.setattr(vulkan, "_KEYS", keys)
    monkeypatch.setattr(vulkan, "SYSTEM_INCLUDE", build.checkout)
    monkeypatch.setattr(vulkan.shutil, "which", lambda name: f"/usr/bin/{name}")
    return vulkan


def test_newer_headers_are_fetched_once(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """By apt into the cache, where CMake is pointed to; afterwards nothing is run."""
    vulkan = vulkan_on_an_old_debian(build, monkeypatch, "#define VK_EXT_layer_settings 1")
    cache = build.checkout.parent / "cache"
    for _ in range(2):
        vulkan.ensure_headers(cache)
    assert [command.split()[0] for command in build.commands] == ["apt-get", "apt-get", "dpkg"]
    (flag,) = vulkan.header_flags(cache)
    include = Path(flag.removeprefix("-DVulkan_INCLUDE_DIR="))
    assert include.is_relative_to(cache)
    assert (include / "vulkan" / "vulkan_core.h").is_file()
    assert [path.name for path in (cache / "vulkan-headers").iterdir()] == ["trixie"]


def test_apt_leaves_this_boxs_sources_alone(
    build: Build, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its lists, its cache and its sources are a folder of ours; signatures are checked by Debian's keys."""
    options = dict(
        option.removeprefix("--option=").split("=")
        for option in build.module("vulkan")._apt_options(tmp_path)
    )
    for name in ("Dir::Etc::SourceList", "Dir::State", "Dir::State::status", "Dir::Cache"):
        assert Path(options[name]).is_relative_to(tmp_path)
    assert options["Dir::Etc::SourceParts"] == "/dev/null"
    source = Path(options["Dir::Etc::SourceList"]).read_text()
    assert "signed-by=/usr/share/keyrings/debian-archive-keyring.gpg" in source
    assert "trusted" not in source


def test_headers_of_the_system_that_will_do_are_taken(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Debian 13 nothing is fetched, and CMake finds them by itself."""
    vulkan = vulkan_on_an_old_debian(build, monkeypatch, "")
    header = build.checkout / "vulkan" / "vulkan_core.h"
    header.parent.mkdir()
    header.write_text("#define VK_EXT_layer_settings 1")
    vulkan.ensure_headers(build.checkout.parent / "cache")
    assert vulkan.header_flags(build.checkout.parent / "cache") == []
    assert build.commands == []


def test_headers_that_are_no_better_are_not_kept(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the compilation would end minutes later in an error that names C++ types."""
    vulkan = vulkan_on_an_old_debian(build, monkeypatch, "old")
    cache = build.checkout.parent / "cache"
    with pytest.raises(build.module("steps").Trouble, match="TAMPU_CMAKE_ARGS=-DVulkan_INCLUDE_DIR="):
        vulkan.ensure_headers(cache)
    assert list((cache / "vulkan-headers").iterdir()) == []


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


# mqtt.js.


def test_mqttjs_is_fetched_by_locked_hashes_and_then_kept(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """npm gets our lock file and may run no script of a package; a second time nothing is run."""
    mqttjs = build.module("mqttjs")
    commands: list[list[str]] = []
    monkeypatch.setattr(mqttjs, "_installed", lambda: (sys.executable, ["npm"]))
    monkeypatch.setattr(mqttjs, "run", lambda command, log, env: commands.append(command))
    for _ in range(2):
        mqttjs.ensure(Path(sys.executable), build.checkout / "log")
    assert len(commands) == 1
    assert {"ci", "--ignore-scripts"} <= set(commands[0])
    assert (mqttjs.folder() / "package-lock.json").read_text().count('"integrity": "sha512-') > 40


def test_without_a_network_only_the_test_that_wants_mqttjs_is_skipped(
    build: Build, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said in a line; nothing half is left in the cache."""
    mqttjs = build.module("mqttjs")
    log = build.checkout / "log"

    def fail(command: list[str], log: Path, env: object) -> None:
        log.write_text("npm error code ENOTFOUND")
        raise mqttjs.CommandFailed(1, log)

    monkeypatch.setattr(mqttjs, "_installed", lambda: (sys.executable, ["npm"]))
    monkeypatch.setattr(mqttjs, "run", fail)
    mqttjs.ensure_if_reachable(Path(sys.executable), log)
    assert "skipped: the package registries cannot be reached" in capsys.readouterr().out
    assert list(mqttjs.folder().parent.iterdir()) == []


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
