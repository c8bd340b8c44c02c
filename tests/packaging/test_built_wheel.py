"""What ships is what is tested: the wheel is built, installed away from the checkout, and run there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA_FILES = {"agent/mqtt/contract.schema.json"} | {
    f"agent/data/{name}"
    for name in (
        *("manifest.yaml", "manifest.schema.json", "tampu.yaml", "tampu.service", "tampu-gpu.conf"),
        *("mosquitto/tampu.conf", "mosquitto/tampu.acl", "mosquitto/bridge.conf"),
    )
}
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")

pytestmark = pytest.mark.timeout(180)


def run(command: Sequence[str | Path], cwd: Path, **environment: str) -> str:
    """Output of a command that must succeed, run without the caller's own Tampu settings."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TAMPU_")}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder)
    run([*PIP, "wheel", *options, ROOT], cwd=folder)
    return next(folder.glob("tampu-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel installed; its dependencies are the ones of the Python that runs the tests."""
    folder = tmp_path_factory.mktemp("installed")
    run([*PIP, "install", "--no-deps", "--no-index", "--target", folder, wheel], cwd=folder)
    return folder


def tampu(installed: Path, home: Path, *arguments: str) -> str:
    """Run the installed command as a new user would: an empty home, no checkout in sight."""
    command = [installed / "bin" / "tampu", *arguments]
    return run(command, cwd=home, PYTHONPATH=str(installed), HOME=str(home), XDG_CONFIG_HOME=str(home))


def test_holds_the_package_and_its_data(wheel: Path) -> None:
    """The wheel holds every module of agent/ and the files an installed tampu reads."""
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "agent").rglob("*.py")}
    assert modules | DATA_FILES <= set(zipfile.ZipFile(wheel).namelist())


def test_holds_nothing_else(wheel: Path) -> None:
    """The wheel holds no weights, and nothing beside the package and its metadata."""
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in names if name.endswith(".gguf")] == []
    assert [name for name in names if not name.startswith(("agent/", "tampu-"))] == []


def test_is_imported_from_where_it_was_installed(installed: Path, tmp_path: Path) -> None:
    """The installed copy is the one these tests run, not the checkout."""
    program = "import agent; print(agent.__file__)"
    where = run([sys.executable, "-c", program], cwd=tmp_path, PYTHONPATH=str(installed))
    assert Path(where.strip()).is_relative_to(installed)


def test_the_command_says_its_version(installed: Path, tmp_path: Path) -> None:
    """`tampu --version` of an installed wheel names the version in the wheel's own metadata."""
    metadata = next(installed.glob("tampu-*.dist-info")) / "METADATA"
    version = next(line for line in metadata.read_text().splitlines() if line.startswith("Version: "))
    assert version.removeprefix("Version: ") in tampu(installed, tmp_path, "--version")


def test_the_defaults_are_a_valid_configuration(installed: Path, tmp_path: Path) -> None:
    """`tampu config check` succeeds where there is no configuration file at all."""
    tampu(installed, tmp_path, "config", "check")
