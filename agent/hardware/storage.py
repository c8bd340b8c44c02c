"""The disk under a folder: which device, what kind, and what such a medium reads."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from agent.hardware.machine import Storage, StorageKind
from agent.hardware.text import read, read_clean, read_int

ROOT = Path("/")
# Bytes per second that a medium of the kind reads in one piece: typical, of no box in particular.
# Cards and eMMC: what the bus of common boards allows (SDR104 at half, HS400 at two thirds).
READ_BYTES_S: dict[StorageKind, int] = {
    "nvme": 2_000_000_000,
    "ssd": 500_000_000,
    "emmc": 200_000_000,
    "usb": 150_000_000,
    "disk": 120_000_000,
    "network": 100_000_000,
    "sd": 40_000_000,
    "memory": 4_000_000_000,
}
NETWORK = re.compile(
    r"nfs\d?|cifs|smb3|smbfs|9p|virtiofs|ceph|afs|lustre|glusterfs|fuse\.(sshfs|glusterfs|rclone|s3fs)"
)
MEMORY = {"tmpfs", "ramfs", "rootfs", "zram"}
# Devices on devices (LVM, dm-crypt, RAID): no real stack is deeper.
MAX_STACK = 8
OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo: where, `major:minor`, kind of file system, and what is mounted."""

    folder: str
    number: str
    filesystem: str
    source: str
    options: str


def storage(folder: Path, root: Path = ROOT) -> Storage:
    """The disk that `folder`, as the box names it, lies on; "" and None where nothing tells."""
    mount = _mount_of(_absolute(folder, root), parse_mounts(read(root / "proc/self/mountinfo")))
    total, free = _space(folder) if root == ROOT else (None, None)
    if mount is None:
        return Storage(total_bytes=total, free_bytes=free)
    device, kind = _device(root, mount)
    return Storage(
        device=device,
        kind=kind,
        read_bytes_s=READ_BYTES_S.get(kind),
        total_bytes=total,
        free_bytes=free,
    )


def parse_mounts(text: str) -> tuple[Mount, ...]:
    """The mounts, in the order of the file: later ones cover earlier ones. Other lines are left out."""
    mounts = []
    for line in text.splitlines():
        own, _, rest = line.partition(" - ")
        fields, others = own.split(), rest.split()
        if len(fields) >= 5 and len(others) >= 2:
            options = others[2] if len(others) > 2 else ""
            mounts.append(Mount(_unescape(fields[4]), fields[2], others[0], _unescape(others[1]), options))
    return tuple(mounts)


def _unescape(text: str) -> str:
    """Blanks in paths are written as octal numbers."""
    return OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def _absolute(folder: Path, root: Path) -> str:
    if root != ROOT:
        return os.path.normpath(folder)
    try:
        return str(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # a loop of links
        return os.path.abspath(folder)


def _mount_of(folder: str, mounts: tuple[Mount, ...]) -> Mount | None:
    """The longest mount point above the folder; of several at one place the last."""
    above = [
        mount
        for mount in mounts
        if mount.folder == "/" or f"{folder}/".startswith(f"{mount.folder.rstrip('/')}/")
    ]
    return max(reversed(above), key=lambda mount: len(mount.folder), default=None)


def _device(root: Path, mount: Mount) -> tuple[str, StorageKind]:
    if NETWORK.fullmatch(mount.filesystem):
        return mount.source, "network"
    if mount.filesystem in MEMORY:
        return mount.filesystem, "memory"
    if mount.filesystem == "overlay" and (below := _below_overlay(root, mount)):
        return _device(root, below)
    folder = _block_folder(root, mount)
    return (folder.name, _kind(root, folder)) if folder else (Path(mount.source).name, "")


def _below_overlay(root: Path, mount: Mount) -> Mount | None:
    """What the upper, else the first lower, folder of an overlay lies on; a container cannot see that."""
    options = dict(option.partition("=")[::2] for option in mount.options.split(","))
    folder = options.get("upperdir") or options.get("lowerdir", "").split(":")[0]
    mounts = [
        other for other in parse_mounts(read(root / "proc/self/mountinfo")) if other.filesystem != "overlay"
    ]
    return _mount_of(folder, tuple(mounts)) if folder.startswith("/") else None


def _block_folder(root: Path, mount: Mount) -> Path | None:
    """The disk in sysfs. btrfs has numbers of its own (0:24): there the source's name leads to it."""
    candidates = [root / "sys/dev/block" / mount.number, root / "sys/class/block" / Path(mount.source).name]
    for candidate in candidates if not mount.number.startswith("0:") else candidates[1:]:
        try:
            folder = candidate.resolve(strict=True)
        except (OSError, ValueError, RuntimeError):
            continue
        return _whole_disk(root, folder)
    return None


def _whole_disk(root: Path, folder: Path) -> Path:
    """From a partition to its disk, and from a device on devices to the first one below."""
    for _ in range(MAX_STACK):
        if (folder / "partition").exists():
            folder = folder.parent
        try:
            below = sorted((folder / "slaves").iterdir())
        except OSError:
            below = []
        if not below:
            break
        try:
            folder = below[0].resolve(strict=True)
        except (OSError, RuntimeError):
            folder = root / "sys/class/block" / below[0].name
    return folder


def _kind(root: Path, disk: Path) -> StorageKind:
    name = disk.name
    if name.startswith("nvme"):
        return "nvme"
    if name.startswith("mmcblk"):
        return "sd" if read_clean(disk / "device/type") == "SD" else "emmc"
    if name.startswith(("zram", "ram")):
        return "memory"
    if name.startswith(("nbd", "rbd", "drbd")):
        return "network"
    if "/usb" in str(disk.relative_to(root) if disk.is_relative_to(root) else disk):
        return "usb"
    rotates = read_int(disk / "queue/rotational")
    if rotates is None:
        return ""
    if name.startswith(("vd", "xvd")):
        # A virtual disk says what its host was told to say: not what it is.
        return "" if rotates else "ssd"
    return "disk" if rotates else "ssd"


def _space(folder: Path) -> tuple[int | None, int | None]:
    """Bytes in all and free for us; of the nearest folder above that is there."""
    for existing in (folder, *folder.parents):
        try:
            found = os.statvfs(existing)
        except (OSError, ValueError):
            continue
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    return None, None
