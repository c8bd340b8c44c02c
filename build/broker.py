"""The integration tests speak to a real mosquitto: find it, or install it where that is nobody's loss."""

from __future__ import annotations

import os
import shutil
import sys

import apt
from steps import Trouble, step

# The broker itself, and the client the tests check our frames against.
PROGRAMS = ("mosquitto", "mosquitto_pub")
APT_PACKAGES = ("mosquitto", "mosquitto-clients")


def search_path() -> str:
    """PATH, and the folder where Debian keeps the broker, which is not on a plain user's PATH."""
    return os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))


def ensure() -> None:
    """Raises Trouble when the broker is missing and cannot be installed from here."""
    if not missing():
        return
    if not apt.may_install():
        is_mac = sys.platform == "darwin"
        mend = "brew install mosquitto" if is_mac else f"sudo apt-get install {' '.join(APT_PACKAGES)}"
        raise Trouble(f"the integration tests need {' and '.join(missing())}: run '{mend}', then try again")
    with step("mosquitto"):
        install()


def missing() -> list[str]:
    return [program for program in PROGRAMS if not shutil.which(program, path=search_path())]


def install() -> None:
    """Where systemd runs, Debian's package starts a broker on port 1883; the tests use free ports."""
    apt.install("mosquitto", APT_PACKAGES)
