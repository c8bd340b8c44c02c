"""The integration tests speak to a real mosquitto: find it, or install it where that is nobody's loss."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from steps import Trouble, step

# The broker itself, and the client the tests check our frames against.
PROGRAMS = ("mosquitto", "mosquitto_pub")
APT_PACKAGES = "mosquitto mosquitto-clients"


def search_path() -> str:
    """PATH, and the folder where Debian keeps the broker, which is not on a plain user's PATH."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))


def ensure() -> None:
    """Raises Trouble when the broker is missing and cannot be installed from here."""
    if not missing():
        return
    if not may_use_apt():
        mend = (
            "brew install mosquitto" if sys.platform == "darwin" else f"sudo apt-get install {APT_PACKAGES}"
        )
        raise Trouble(f"the integration tests need {' and '.join(missing())}: run '{mend}', then try again")
    with step("mosquitto"):
        install()


def missing() -> list[str]:
    return [program for program in PROGRAMS if not shutil.which(program, path=search_path())]


def may_use_apt() -> bool:
    """Only as root, which in practice is a throw-away container; TAMPU_TEST_NO_APT=1 says no there too."""
    asked_not_to = os.environ.get("TAMPU_TEST_NO_APT") == "1"
    return os.geteuid() == 0 and not asked_not_to and shutil.which("apt-get") is not None


def install() -> None:
    """Where systemd runs, Debian's package starts a broker on port 1883; the tests use free ports."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in ("apt-get update", f"apt-get install -y --no-install-recommends {APT_PACKAGES}"):
        done = subprocess.run(command.split(), env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            print(done.stdout, done.stderr, sep="", file=sys.stderr)
            raise Trouble(f"mosquitto could not be installed: run '{command}' by hand, then try again")
