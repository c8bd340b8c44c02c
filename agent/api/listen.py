"""A listening unix socket nobody else can have touched."""

import errno
import grp
import os
import socket
import stat
from pathlib import Path

from agent.errors import ConfigError

SOCKET_MODE = 0o660
FOLDER_MODE = 0o750
BACKLOG = 128
# How long a connect to a socket that is there may take before its owner counts as alive and busy.
PROBE_S = 1.0


def bind_socket(path: str, group: str | None) -> socket.socket:
    """A listening unix socket of mode 0660, owned by `group` if given.

    A socket that a dead daemon left behind is replaced; anything else at `path` is left alone.
    Raises ConfigError.
    """
    gid = _group_id(group)
    try:
        _make_folder(Path(path).parent, gid)
        _clear_stale(path)
        sock = _bind(path)
    except OSError as error:
        raise ConfigError(f"api.socket: {path} cannot be made: {error.strerror or error}") from error
    try:
        _give_to_group(path, gid)
    except OSError as error:
        sock.close()
        Path(path).unlink()
        raise ConfigError(f"api.group: this user cannot give files to {group!r}; make it a member") from error
    return sock


def check_folders(folder: Path) -> None:
    """Where everybody may make folders, as in /tmp, ours must not be another user's: its owner could put a
    socket of their own in our place, or a link where we write. Raises ConfigError or OSError."""
    folder = folder.absolute()
    for one in (folder, *folder.parents):
        inside = os.stat(one.parent)
        owner = os.lstat(one).st_uid
        if inside.st_mode & stat.S_IWOTH and owner not in (0, os.geteuid()):
            raise ConfigError(
                f"api.socket: {one} belongs to another user (id {owner}); set api.socket to a path elsewhere"
            )


def _group_id(group: str | None) -> int | None:
    if group is None:
        return None
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError as error:
        raise ConfigError(f"api.group: {group!r} is no group here; name another or leave it out") from error


def _make_folder(folder: Path, gid: int | None) -> None:
    if folder.is_dir():
        return
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    folder.chmod(FOLDER_MODE)  # whatever the umask: the group must be able to reach the socket inside
    _give_to_group(folder, gid)


def _give_to_group(path: str | Path, gid: int | None) -> None:
    if gid is not None:
        os.chown(path, -1, gid, follow_symlinks=False)


def _clear_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"api.socket: {path} is there and is not a socket; move it or choose another path")
    if _is_answered(path):
        raise ConfigError(f"api.socket: another tampu answers on {path}; stop it or choose another path")
    Path(path).unlink()


def _is_answered(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except (TimeoutError, BlockingIOError):  # alive, its backlog full
            return True
        return True


def _bind(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The umask, not a chmod afterwards: the socket has its mode from the first moment.
    before = os.umask(0o777 & ~SOCKET_MODE)
    try:
        sock.bind(path)
        # Listening at once: a second daemon that starts now finds this one alive.
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"api.socket: another tampu has just taken {path}; stop one of them") from error
        raise
    finally:
        os.umask(before)
    return sock
