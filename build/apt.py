"""Debian's packages: which are missing, and installing them where that is nobody's loss."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from steps import Trouble, step


def may_install() -> bool:
    """Only as root, which in practice is a throw-away container; TAMPU_TEST_NO_APT=1 says no there too."""
    asked_not_to = os.environ.get("TAMPU_TEST_NO_APT") == "1"
    return os.geteuid() == 0 and not asked_not_to and shutil.which("apt-get") is not None


def install(what: str, packages: Sequence[str]) -> None:
    """Raises Trouble, after apt's own words. `what` names the reason in that sentence."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in ("apt-get update", f"apt-get install -y --no-install-recommends {' '.join(packages)}"):
        done = subprocess.run(command.split(), env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stdout, done.stderr, sep="", file=sys.stderr)
            raise Trouble(f"{what} could not be installed: run '{command}' by hand, then try again")


def ensure(what: str, packages: Sequence[str]) -> None:
    """Have the packages installed. Raises Trouble with the command where we may not do that ourselves.

    Where there is no dpkg nothing is asked: these names mean nothing there.
    """
    absent = missing(packages)
    if not absent:
        return
    if not may_install():
        mend = f"sudo apt-get install {' '.join(absent)}"
        raise Trouble(f"{what} needs {' and '.join(absent)}: run '{mend}', then try again")
    with step(f"packages for {what}"):
        install(what, absent)


def missing(packages: Sequence[str]) -> list[str]:
    if not shutil.which("dpkg-query"):
        return []
    return [package for package in packages if not _is_installed(package)]


def _is_installed(package: str) -> bool:
    command = ["dpkg-query", "--show", "--showformat=${db:Status-Status}\n", package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return "installed" in done.stdout.split()
