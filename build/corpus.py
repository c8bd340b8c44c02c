"""llama.cpp's own vocabularies and chat templates, which the tests tokenise with.

They lie in the source that the lock pins: some 75 MB beside what is compiled. Unpacked once per version.
"""

from __future__ import annotations

import re
import shutil
import tarfile
import tempfile
from pathlib import Path

import lean_wheel
from exclusive import exclusive
from steps import step

_WANTED = re.compile(r"[^/]+/vendor/llama\.cpp/models/(ggml-vocab-[^/]+\.gguf|templates/[^/]+\.jinja)")


def folder(recipe: lean_wheel.Recipe) -> Path:
    return lean_wheel.cache_root() / "corpus" / recipe.version


def ensure(recipe: lean_wheel.Recipe, python: Path, log: Path) -> None:
    """Download and unpack unless that was done; `python` must have the tools of build.txt. Raises Trouble."""
    target = folder(recipe)
    if target.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(target.parent, "another download of the vocabularies"):
        if target.is_dir():  # the other one was ours as well
            return
        for leftover in target.parent.glob("unpacking-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with (
            step("vocabularies"),
            tempfile.TemporaryDirectory(prefix="unpacking-", dir=target.parent) as work,
        ):
            archive = lean_wheel.download_source(recipe, python, Path(work), log)
            unpacked = Path(work, "unpacked")
            _unpack(archive, unpacked)
            # The rename is what makes the folder exist: whoever is stopped before leaves no half of one.
            unpacked.rename(target)


def _unpack(archive: Path, target: Path) -> None:
    (target / "templates").mkdir(parents=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            match = _WANTED.fullmatch(member.name)
            content = tar.extractfile(member) if match and member.isfile() else None
            if match and content:
                with content, (target / match[1]).open("wb") as file:
                    shutil.copyfileobj(content, file)
