"""Where things lie: configuration, state, socket and cache, for a service and for a person."""

import os
import sys
from pathlib import Path

from agent.errors import ConfigError

ENV_CONFIG = "TAMPU_CONFIG"
# Where systemd/tampu.service has them.
SYSTEM_SOCKET = Path("/run/tampu/tampu.sock")
SYSTEM_STATE = Path("/var/lib/tampu")


def runtime_folder() -> Path:
    """Where the socket lies: given by systemd, else /run/tampu for root, else the user's own."""
    if given := os.environ.get("RUNTIME_DIRECTORY"):
        return Path(given.split(":")[0])
    if os.geteuid() == 0:
        return Path("/run/tampu")
    fallback = os.environ.get("TMPDIR", "/tmp") + f"/tampu-{os.geteuid()}"  # noqa: S108 - see check_folders in api/listen.py
    return Path(os.environ.get("XDG_RUNTIME_DIR", fallback)) / "tampu"


def socket_to_ask(path: str) -> str:
    """Where a person's command finds the daemon: their own, else the system's if only that is there."""
    is_default = Path(path) == runtime_folder() / "tampu.sock"
    is_ours_missing = is_default and not os.path.lexists(path)
    return str(SYSTEM_SOCKET) if is_ours_missing and SYSTEM_SOCKET.parent.is_dir() else path


def is_system_socket(path: str) -> bool:
    """True for the socket of the daemon that systemd starts."""
    return Path(path) == SYSTEM_SOCKET


def state_folder() -> Path:
    """Where models lie by default."""
    if given := os.environ.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0])
    if os.geteuid() == 0:
        return SYSTEM_STATE
    if sys.platform == "darwin":
        return _home() / "Library" / "Application Support" / "tampu"
    return Path(os.environ.get("XDG_STATE_HOME", str(_home() / ".local" / "state"))) / "tampu"


def credential(name: str) -> Path:
    """Where a file with a secret lies: a bare name is one of systemd's credentials, where the service has
    it (LoadCredential=); everything else is a path as it stands."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    is_bare = name not in {"", ".", ".."} and os.sep not in name
    given = Path(folder, name) if folder and is_bare else Path(name)
    return given if os.path.lexists(given) else Path(name)


def measurements_folder() -> Path:
    """Where `tampu bench` keeps its figures."""
    return state_folder() / "measurements"


def cache_folder() -> Path:
    """Where fetched packages are kept between runs; may be emptied at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME", str(_home() / ".cache"))) / "tampu"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a user id without a name, as containers have: the system users' word for "none"
        return Path("/nonexistent")


def config_candidates() -> tuple[Path, ...]:
    """The files looked for when none is named, first match wins."""
    user = Path(os.environ.get("XDG_CONFIG_HOME", str(_home() / ".config")))
    return (user / "tampu" / "tampu.yaml", Path("/etc/tampu/tampu.yaml"))


def find_config_file(named: str | None) -> Path | None:
    """The file to read: --config, then $TAMPU_CONFIG, then the usual places, else none.

    Raises ConfigError when a file that was named does not exist.
    """
    named = named or os.environ.get(ENV_CONFIG)
    if named:
        path = Path(named)
        if not _is_file(path):
            raise ConfigError(f"{path}: no such configuration file; name an existing one with --config FILE")
        return path
    return next((path for path in config_candidates() if _is_file(path)), None)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:  # a folder this user may not look into holds no file for this user
        return False
