"""The local socket: is it there, who may use it, and does a daemon answer on it."""

import grp
import os
import socket
import stat
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from agent.cli.socket_client import SocketClient
from agent.doctor.folders import user_name
from agent.errors import DaemonUnreachable, RequestError
from agent.findings import Finding, Severity
from agent.status import Status

ROUTE = "/health"
ANSWERS_WITHIN_S = 3.0
# What a daemon that root started by hand has made is root's.
MIGHTY_GROUPS = ("root", "wheel", "admin", "sudo", "0")

Answer = Literal["absent", "no_socket", "stale", "forbidden", "silent", "answers"]


class Door(Struct, frozen=True, kw_only=True):
    """The socket at `path`; `status` is the daemon's word, if one answers."""

    path: str
    answer: Answer
    owner: str = ""
    group: str = ""
    mode: int = 0
    can_be_made: bool = True
    status: Status | None = None


def look(path: str) -> Door:
    """Knock. Takes a few seconds at most."""
    try:
        found = os.lstat(path)
    except PermissionError:
        return Door(path=path, answer="forbidden", group=_group_of(Path(path).parent))
    except OSError:
        return Door(path=path, answer="absent", can_be_made=_can_be_made(Path(path).parent))
    answer, status = _knock(path) if stat.S_ISSOCK(found.st_mode) else ("no_socket", None)
    return Door(
        path=path,
        answer=answer,
        owner=user_name(found.st_uid),
        group=_group_name(found.st_gid),
        mode=stat.S_IMODE(found.st_mode),
        status=status,
    )


def _knock(path: str) -> tuple[Answer, Status | None]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(ANSWERS_WITHIN_S)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return "stale", None
        except PermissionError:
            return "forbidden", None
        except OSError:  # its backlog is full, or it went away
            return "silent", None
    try:
        content = SocketClient(path).get_json(ROUTE, ANSWERS_WITHIN_S)
        return "answers", msgspec.json.decode(content, type=Status)
    except (DaemonUnreachable, RequestError, msgspec.DecodeError, UnicodeDecodeError):
        return "silent", None


def judge(door: Door, group: str | None) -> list[Finding]:
    """Who cannot come in, and who could too much. `group` is the configured one."""
    if group is not None and not _is_group(group):
        what = f"api.group names {group!r}, and there is no such group: the daemon will not start."
        return [Finding(Severity.ERROR, "socket_group_unknown", what, f"Make it with: sudo groupadd {group}")]
    match door.answer:
        case "absent":
            return [_absent(door)]
        case "no_socket":
            what = f"{door.path} is there and is not a socket: the daemon will not start."
            return [Finding(Severity.ERROR, "socket_path_taken", what, "Move it away, or set api.socket.")]
        case "stale":
            what = f"No daemon runs; one that died left its socket {door.path} behind."
            remedy = "The next start replaces it: tampu run"
            return [Finding(Severity.NOTE, "socket_stale", what, remedy)]
        case "forbidden":
            what = f"This user may not use the daemon's socket {door.path}."
            return [Finding(Severity.ERROR, "socket_forbidden", what, _way_in(door))]
        case "silent":
            what = f"The daemon on {door.path} does not answer within {ANSWERS_WITHIN_S:.0f} s."
            remedy = "See its log (`journalctl -u tampu`), or start it again: sudo systemctl restart tampu"
            return [Finding(Severity.ERROR, "daemon_silent", what, remedy)]
        case "answers":
            return _open_to_all(door)


def _way_in(door: Door) -> str:
    """Nobody is told to join a group that may do more than this, nor one that the socket is closed to."""
    is_closed_to_group = door.mode != 0 and not door.mode & stat.S_IWGRP
    if door.group in MIGHTY_GROUPS or is_closed_to_group:
        return "Set api.group to a group that this user is in, and start the daemon again."
    return f"Become a member of its group, and log in again: sudo usermod -a -G {door.group} $USER"


def _absent(door: Door) -> Finding:
    if door.can_be_made:
        what = f"No daemon runs: there is no socket {door.path}."
        return Finding(Severity.NOTE, "daemon_not_running", what, "Start it with: tampu run")
    what = f"No daemon runs, and this user could not make its socket {door.path}."
    remedy = "Start the service (`sudo systemctl start tampu`), or set api.socket to a path of your own."
    return Finding(Severity.WARNING, "socket_folder_closed", what, remedy)


def _open_to_all(door: Door) -> list[Finding]:
    if not door.mode & stat.S_IWOTH:
        return []
    what = f"Everybody on this box may use the socket {door.path}."
    return [Finding(Severity.WARNING, "socket_open", what, f"Close it with: chmod o-rwx {door.path}")]


def _can_be_made(folder: Path) -> bool:
    """Could this user make a socket there; the folder, or what is there of its path, must be open to it."""
    there = next((path for path in (folder, *folder.parents) if path.is_dir()), Path("/"))
    return os.access(there, os.W_OK | os.X_OK)


def _group_of(path: Path) -> str:
    try:
        return _group_name(path.stat().st_gid)
    except OSError:
        return "tampu"


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _is_group(name: str) -> bool:
    try:
        return bool(grp.getgrnam(name))
    except KeyError:
        return False
