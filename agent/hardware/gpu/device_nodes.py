"""The files under /dev that a GPU is reached by, and whether this process may open them."""

import os
from pathlib import Path

NODES = {
    "nvidia": ("nvidiactl", "nvidia[0-9]*", "nvhost-gpu", "nvmap"),
    "arm": ("dri/renderD*", "mali0"),
}
OTHERS = ("dri/renderD*",)


def closed(root: Path, vendor: str) -> str:
    """The first node of such a GPU that is there and may not be opened, as `/dev/...`; else ""."""
    for pattern in NODES.get(vendor, OTHERS):
        for node in sorted((root / "dev").glob(pattern)):
            if not os.access(node, os.R_OK | os.W_OK):
                return f"/{node.relative_to(root)}"
    return ""
