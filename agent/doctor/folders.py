"""The folders of models and of state: there, ours, and with room left."""

import os
import pwd
import shutil
from pathlib import Path

from msgspec import Struct

from agent.config import Journal
from agent.doctor.words import size
from agent.findings import Finding, Severity

# Less room than the smallest useful model file takes, and logs of a while.
LOW_BYTES = 512 << 20
MODEL_FILES = "*.gguf"


class Folder(Struct, frozen=True, kw_only=True):
    """One folder as this user sees it. `owner` is a name, or a number without one; sizes in bytes.

    `is_hidden`: a folder above it is closed to us; `owner` is that one's.
    """

    path: str
    exists: bool = False
    is_hidden: bool = False
    is_readable: bool = False
    is_writable: bool = False
    owner: str = ""
    num_models: int = 0
    free_bytes: int | None = None


def look(path: Path) -> Folder:
    """Look at a folder; what is not there has no more to tell, nor what lies in a folder closed to us."""
    try:
        owner = path.stat().st_uid
    except PermissionError:
        return Folder(path=str(path), exists=True, is_hidden=True, owner=_closing_owner(path))
    except (OSError, ValueError):
        return Folder(path=str(path))
    is_readable = path.is_dir() and os.access(path, os.R_OK | os.X_OK)
    return Folder(
        path=str(path),
        exists=path.is_dir(),
        is_readable=is_readable,
        is_writable=os.access(path, os.W_OK),
        owner=user_name(owner),
        num_models=len(model_files(path)) if is_readable else 0,
        free_bytes=_free_bytes(path),
    )


def model_files(path: Path) -> tuple[Path, ...]:
    """The model files in a folder, by name; none where it may not be read."""
    try:
        return tuple(sorted(path.glob(MODEL_FILES)))
    except (OSError, ValueError):
        return ()


def _closing_owner(path: Path) -> str:
    """Whose the folder above is that keeps us out; "" where that cannot be seen either."""
    for folder in path.parents:
        try:
            return user_name(folder.stat().st_uid)
        except OSError:
            continue
    return ""


def user_name(uid: int) -> str:
    """The user's name, or the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def this_user() -> str:
    """Who runs the doctor."""
    return user_name(os.geteuid())


def judge_models(folder: Folder) -> list[Finding]:
    """Without a file in it there is nothing to answer with."""
    fetch = f"Fetch the default model with: tampu models fetch --folder {folder.path}"
    if not folder.exists:
        what = f"There is no models folder {folder.path}."
        return [Finding(Severity.ERROR, "models_folder_missing", what, fetch)]
    if not folder.is_readable:
        what = f"This user may not read the models folder {folder.path}, which is {folder.owner}'s."
        remedy = (
            f"Look as {folder.owner} does (`sudo -u {folder.owner} tampu doctor`), or open it to your group."
        )
        return [Finding(Severity.ERROR, "models_folder_unreadable", what, remedy)]
    if not folder.num_models:
        what = f"The models folder {folder.path} holds no model file (*.gguf)."
        return [Finding(Severity.ERROR, "models_folder_empty", what, fetch)]
    return _low(folder)


def judge_state(folder: Folder, daemon_user: str) -> list[Finding]:
    """Computed profiles are kept there: without it every start computes them again."""
    if not folder.exists or folder.is_hidden:
        return []  # the first start makes it; of a hidden one nobody knows
    costs = "computed profiles cannot be kept, and every start computes them again"
    if daemon_user not in (folder.owner, "root"):
        whose = f"is {folder.owner}'s, and the daemon runs as {daemon_user}"
        what = f"The state folder {folder.path} {whose}: {costs}."
        remedy = f"Give it away with: sudo chown -R {daemon_user} {folder.path}"
        return [Finding(Severity.WARNING, "state_folder_owner", what, remedy)]
    if not folder.is_writable and folder.owner == this_user():
        what = f"The state folder {folder.path} cannot be written: {costs}."
        remedy = "Mount its disk read-write and give its owner write permission."
        return [Finding(Severity.WARNING, "state_folder_read_only", what, remedy)]
    return []


def judge_journal(settings: Journal, folder: Folder, daemon_user: str) -> list[Finding]:
    """Where it cannot be written, accepted requests are lost with the daemon."""
    if settings.mode != "disk" or not folder.exists or folder.is_hidden:
        return []  # the first start makes it; of a hidden one nobody knows
    costs = "requests that were accepted are lost when the daemon ends"
    if daemon_user not in (folder.owner, "root"):
        whose = f"is {folder.owner}'s, and the daemon runs as {daemon_user}"
        what = f"The journal's folder {folder.path} {whose}: {costs}."
        remedy = f"Give it away (`sudo chown -R {daemon_user} {folder.path}`), or set journal.folder."
        return [Finding(Severity.WARNING, "journal_folder_owner", what, remedy)]
    if not folder.is_writable and folder.owner == this_user():
        what = f"The journal's folder {folder.path} cannot be written: {costs}."
        remedy = "Mount its disk read-write, or set journal.folder to one that is."
        return [Finding(Severity.WARNING, "journal_folder_read_only", what, remedy)]
    return []


def _low(folder: Folder) -> list[Finding]:
    if folder.free_bytes is None or folder.free_bytes >= LOW_BYTES:
        return []
    what = f"The disk of {folder.path} has {size(folder.free_bytes)} left: another model may not find room."
    return [Finding(Severity.WARNING, "disk_space_low", what, "Delete what is not needed there.")]


def _free_bytes(path: Path) -> int | None:
    try:
        return shutil.disk_usage(path).free
    except OSError:
        return None
