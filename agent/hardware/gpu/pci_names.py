"""The names of PCI devices, from the table that distributions ship (pci.ids of the PCI ID project)."""

from pathlib import Path

from agent.hardware.text import read_bytes

TABLES = ("usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids")
# Today's table has 1.4 MB.
MAX_BYTES = 8 << 20


def device_name(root: Path, vendor: int, device: int) -> str:
    """What the table calls a device, or "" without a table or an entry.

    Lines: `8086  Intel Corporation`, below it `<tab>a7a0  Raptor Lake-P [Iris Xe Graphics]`.
    """
    for table in TABLES:
        if text := read_bytes(root / table, MAX_BYTES):
            return _find(text, vendor, device)
    return ""


def _find(text: bytes, vendor: int, device: int) -> str:
    start = text.find(b"\n%04x  " % vendor)
    if start < 0:
        return ""
    end = start + 1
    while True:
        line_end = text.find(b"\n", end)
        line = text[end : line_end if line_end >= 0 else len(text)]
        if line.startswith(b"\t%04x  " % device):
            return line[7:].decode("utf-8", "replace").strip()
        end = line_end + 1
        if line_end < 0 or text[end : end + 1] not in (b"\t", b"#"):
            return ""
