"""The recipes llama.cpp is compiled by, and the small reader that has to do without a YAML library."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

BUILD = Path(__file__).parents[2] / "build"
LOCK = "llama-cpp-python==9.9.9 \\\n    --hash=sha256:00\n"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Imports a module of build/, for this test only: they are scripts beside each other, not a package."""
    monkeypatch.syspath_prepend(BUILD)
    for path in BUILD.glob("*.py"):
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
    return importlib.import_module


@pytest.fixture
def targets(module: Callable[[str], ModuleType]) -> Any:
    return module("targets")


@pytest.fixture
def every(targets: Any) -> Any:
    """All targets by name."""
    return targets.read(targets.FILE.read_text())


# ---- the reader --------------------------------------------------------------------------------------


def test_our_reader_reads_the_file_as_yaml_does(targets: Any) -> None:
    """Every name, text and list is what a real YAML library makes of it."""
    text = targets.FILE.read_text()
    assert targets._tree(text) == yaml.safe_load(text)


@pytest.mark.parametrize(
    "line",
    [
        "  about: 'quoted'",
        "  about: one: two",
        "  about: text # and more",
        "  about: on",
        "  about: 87",
        "  about: [a, b]",
        "  about: &anchor",
        "  about: |",
        "   about: three spaces",
        "\tabout: a tab",
        "    - an item of no list",
        "  about: once\n  about: twice",
        "  flags:\n    - -DA=ON\n      -DB=ON",
        "  flags:\n    - ",
        "  about: text\n    - an item of a text",
        "cpu:",
        "%YAML 1.2",
    ],
)
def test_what_is_not_of_the_subset_is_refused(targets: Any, line: str) -> None:
    """Rather than being read as something else than YAML would make of it."""
    with pytest.raises(ValueError, match=r"targets\.yaml: line \d+"):
        targets.read(f"cpu:\n{line}\n")


@pytest.mark.parametrize(
    "line", ["  flogs:\n    - -DA=ON", "  flags: -DA=ON", "  about:\n    - text", "  name: x"]
)
def test_a_misspelt_key_is_refused(targets: Any, line: str) -> None:
    """A recipe whose flags are silently dropped would build something else."""
    with pytest.raises(ValueError, match=r"targets\.yaml: cpu\.\w+ is unknown, or not of its kind"):
        targets.read(f"cpu:\n{line}\n")


# ---- the choice --------------------------------------------------------------------------------------


def test_without_a_choice_it_is_the_cpu(targets: Any) -> None:
    """And that has no flags: the wheels that are in caches now stay good."""
    for environ in ({}, {"TAMPU_TARGET": ""}):
        assert targets.chosen(environ).name == "cpu"
    assert targets.chosen({}).flags_with("") == ""


def test_an_unknown_target_is_answered_with_those_there_are(module: Any, targets: Any, every: Any) -> None:
    """One sentence with every name."""
    with pytest.raises(module("steps").Trouble) as trouble:
        targets.chosen({"TAMPU_TARGET": "cuba"})
    assert str(trouble.value) == (f"there is no target cuba: set TAMPU_TARGET to one of {', '.join(every)}")


def test_a_target_that_cannot_be_had_yet_says_why(module: Any, targets: Any) -> None:
    """A wheel of all CPU variants would be built for minutes, and then load no model."""
    with pytest.raises(module("steps").Trouble, match="the engine does not load backends at run time so far"):
        targets.chosen({"TAMPU_TARGET": "cpu-variants"})


# ---- the recipes -------------------------------------------------------------------------------------


def architectures(target: Any) -> list[str]:
    (flag,) = (flag for flag in target.flags if flag.startswith("-DCMAKE_CUDA_ARCHITECTURES="))
    return flag.partition("=")[2].split(";")


def test_every_target_says_what_it_is_and_why(every: Any) -> None:
    """A recipe is read by people who have such a box and wonder."""
    for target in every.values():
        assert target.about
        assert target.notes
        assert all(re.fullmatch(r"-D\w+=\S+", flag) for flag in target.flags)
        assert bool(target.tools) == bool(target.tools_come_with)


def test_each_jetson_gets_its_own_architecture(every: Any) -> None:
    """Orin, Xavier, Nano and Thor; and no kernels for any other GPU, since they take minutes and space."""
    found = {name: architectures(target) for name, target in every.items() if name.startswith("cuda-")}
    assert found == {"cuda-orin": ["87"], "cuda-xavier": ["72"], "cuda-nano": ["53"], "cuda-thor": ["110"]}


def test_small_jetsons_do_without_the_memory_pool(every: Any) -> None:
    """Its reservation of 32 GiB of addresses fails where the board has 8 GB."""
    without = {name for name, target in every.items() if "-DGGML_CUDA_NO_VMM=ON" in target.flags}
    assert without == {"cuda-orin", "cuda-xavier", "cuda-nano"}


def test_a_pcs_wheel_runs_on_newer_cards_too(every: Any) -> None:
    """Something of it is in the form that a driver compiles for cards that did not exist then."""
    assert any(name.endswith("-virtual") for name in architectures(every["cuda"]))


def test_every_gpu_target_asks_for_its_backend(every: Any) -> None:
    """And none for two: the registry would offer one GPU under two names."""
    backends = {"cuda": "CUDA", "metal": "METAL", "vulkan": "VULKAN"}
    for name, target in every.items():
        wanted = backends.get(name.partition("-")[0])
        found = [word for word in backends.values() if f"-DGGML_{word}=ON" in target.flags]
        assert found == ([wanted] if wanted else [])


# ---- the wheel's key ---------------------------------------------------------------------------------


def test_every_target_is_another_wheel(module: Any, every: Any) -> None:
    """They lie side by side in the cache, and going from one to another compiles nothing twice."""
    lean_wheel = module("lean_wheel")
    recipes = [lean_wheel.recipe(LOCK, {}, target) for target in every.values()]
    assert len({recipe.folder for recipe in recipes}) == len(every)
    assert len({recipe.inputs for recipe in recipes}) == len(every)


def test_flags_of_ones_own_come_last_and_make_another_wheel(module: Any, targets: Any) -> None:
    """CMake lets the last one win, so a person can take one architecture of the recipe's four."""
    mine = "-DCMAKE_CUDA_ARCHITECTURES=86"
    recipe = module("lean_wheel").recipe(LOCK, {"TAMPU_TARGET": "cuda", "TAMPU_CMAKE_ARGS": mine})
    plain = module("lean_wheel").recipe(LOCK, {"TAMPU_TARGET": "cuda"})
    assert recipe.flags.endswith(f" {mine}")
    assert recipe.folder != plain.folder


def test_another_cuda_toolkit_is_another_wheel(
    module: Any, targets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wheel is linked to the libraries of one major version."""
    toolchain = module("toolchain")
    recipe = module("lean_wheel").recipe(LOCK, {"TAMPU_TARGET": "cuda"})
    monkeypatch.setattr(toolchain, "version_of", lambda tool: f"{tool} 12.6")
    before = recipe.folder
    monkeypatch.setattr(toolchain, "version_of", lambda tool: f"{tool} 13.0")
    assert recipe.folder != before


def test_a_list_of_architectures_reaches_cmake_whole(module: Any, targets: Any) -> None:
    """A semicolon ends a command in a shell; here it is one argument's."""
    flags = targets.named("cuda").flags_with("-DA=ON")
    assert shlex.split(flags) == [*targets.named("cuda").flags, "-DA=ON"]
