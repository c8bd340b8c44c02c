"""The GPUs that the kernel shows: on the PCI bus, as platform devices under DRM, in NVIDIA's own folder.

No driver library is loaded. What only shows a screen (a server's management chip) is left out.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from agent.hardware.cgroup import read_number
from agent.hardware.gpu.pci_names import device_name
from agent.hardware.gpu.vendors import of_number
from agent.hardware.machine import Gpu, GpuApi, GpuKind
from agent.hardware.text import may_read, read

PCI = Path("sys/bus/pci/devices")
DRM = Path("sys/class/drm")
NVIDIA = Path("proc/driver/nvidia")
DISPLAY_CLASS = 0x03
# "Processing accelerator", as AMD's Instinct cards call themselves; of other makers it is no GPU.
ACCELERATOR_CLASS, AMD = 0x12, 0x1002

# What hypervisors show: virtio, QXL, Bochs, VMware, Hyper-V, VirtualBox, Parallels.
VIRTUAL_VENDORS = (0x1AF4, 0x1B36, 0x1234, 0x15AD, 0x1414, 0x80EE, 0x1AB8)
# Intel's cards: DG1, Alchemist, Battlemage.
INTEL_CARDS = (0x49, 0x56, 0xE2)
NVIDIA_ON_CHIP = re.compile(r"\b(GB10|Thor|Orin|Xavier|nvgpu)\b")

# DRM's platform drivers that compute -> the vendor and a name where the board tells none.
PLATFORM = {
    "v3d": ("broadcom", "VideoCore (V3D)"),
    "vc4-drm": ("broadcom", "VideoCore IV"),
    "vc4": ("broadcom", "VideoCore IV"),
    "panfrost": ("arm", "Mali"),
    "panthor": ("arm", "Mali"),
    "lima": ("arm", "Mali"),
    "mali": ("arm", "Mali"),
    "msm": ("qualcomm", "Adreno"),
    "msm_dpu": ("qualcomm", "Adreno"),
    "adreno": ("qualcomm", "Adreno"),
    "nouveau": ("nvidia", "NVIDIA Tegra"),
    "nvgpu": ("nvidia", "NVIDIA Tegra"),
    "asahi": ("apple", "Apple AGX"),
    "powervr": ("imagination", "PowerVR"),
    "pvrsrvkm": ("imagination", "PowerVR"),
    "etnaviv": ("vivante", "Vivante"),
}


def cards(root: Path) -> tuple[Gpu, ...]:
    """Every GPU there is, PCI first, in the order of their addresses. Raises nothing."""
    models = _nvidia_models(root)
    found = {address: _on_pci(root, address, models) for address in _pci_addresses(root)}
    on_pci = [gpu for gpu in found.values() if gpu]
    # A container may have the driver's folder and no bus.
    unlisted = [_nvidia(root, model) for address, model in models.items() if address not in found]
    return (*on_pci, *unlisted, *_platform(root))


def sees_pci(root: Path) -> bool:
    """Whether there is a PCI bus to look at: then a GPU that is not on it is not there."""
    return next(_children(root / PCI), None) is not None


def _pci_addresses(root: Path) -> Iterator[str]:
    for folder in _children(root / PCI):
        kind = (_hex(folder / "class") or 0) >> 16
        if kind == DISPLAY_CLASS or (kind == ACCELERATOR_CLASS and _hex(folder / "vendor") == AMD):
            yield folder.name


def _on_pci(root: Path, address: str, models: dict[str, str]) -> Gpu | None:
    folder = root / PCI / address
    vendor, device = _hex(folder / "vendor") or 0, _hex(folder / "device") or 0
    driver = _driver(folder)
    if vendor in VIRTUAL_VENDORS:
        return Gpu(name=f"virtual display ({driver or 'no driver'})", kind="virtual", driver=driver)
    maker = of_number(vendor)
    if not maker:
        return None
    if model := models.get(address):
        return _nvidia(root, model)
    name = device_name(root, vendor, device) or f"GPU {vendor:04x}:{device:04x}"
    kind = _kind(maker, device, name)
    return Gpu(
        name=f"{maker.upper() if maker in ('amd', 'nvidia') else maker.title()} {name}",
        vendor=maker,
        api=_api(maker),
        kind=kind,
        driver=driver,
        is_unified=kind == "integrated",
        total_bytes=read_number(folder / "mem_info_vram_total"),
        # Without a driver nobody can compute on it; with one the libraries may still be missing.
        is_usable=None if driver and driver != "vfio-pci" else False,
        reason="" if driver and driver != "vfio-pci" else "the kernel has no driver for it in use",
    )


def _kind(maker: str, device: int, name: str) -> GpuKind:
    if maker == "amd":
        # APUs: from 13xx to 19xx, and 96xx to 99xx before them. Cards lie between and above.
        return "integrated" if device < 0x2000 or 0x9600 <= device < 0x9A00 else "discrete"
    if maker == "intel":
        return "discrete" if device >> 8 in INTEL_CARDS else "integrated"
    if maker == "nvidia":
        return "integrated" if NVIDIA_ON_CHIP.search(name) else "discrete"
    return "integrated"


def _nvidia_models(root: Path) -> dict[str, str]:
    """Address on the bus -> model, as NVIDIA's driver says them."""
    models = {}
    for folder in _children(root / NVIDIA / "gpus"):
        lines = read(folder / "information").splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("Model:")), "")
        if model:
            models[folder.name] = model
    return models


def _nvidia(root: Path, model: str) -> Gpu:
    is_on_chip = bool(NVIDIA_ON_CHIP.search(model))
    version = re.search(r"Kernel Module[^\d\n]*([\d.]+)", read(root / NVIDIA / "version"))
    return Gpu(
        name=model,
        vendor="nvidia",
        api="cuda",
        kind="integrated" if is_on_chip else "discrete",
        driver=f"nvidia {version.group(1)}" if version else "nvidia",
        is_unified=is_on_chip,
    )


def _platform(root: Path) -> Iterator[Gpu]:
    """One of each vendor: a chip's display and 3D parts are two cards of DRM."""
    vendors = set()
    drivers = [
        _driver(card / "device") for card in _children(root / DRM) if re.fullmatch(r"card\d+", card.name)
    ]
    for driver in sorted(drivers):  # v3d goes before vc4, which drives the display beside it
        vendor, name = PLATFORM.get(driver, ("", ""))
        if vendor and vendor not in vendors and not (vendor == "nvidia" and sees_pci_display(root)):
            vendors.add(vendor)
            yield Gpu(
                name=name, vendor=vendor, api=_api(vendor), kind="integrated", driver=driver, is_unified=True
            )


def sees_pci_display(root: Path) -> bool:
    """Whether a display adapter is on the PCI bus: nouveau drives cards as well as chips."""
    return next(_pci_addresses(root), None) is not None


def _api(vendor: str) -> GpuApi:
    return "cuda" if vendor == "nvidia" else "vulkan"


def _driver(folder: Path) -> str:
    """The kernel driver bound to a device, by its uevent (recordings have no links) or its link."""
    for line in read(folder / "uevent").splitlines():
        if line.startswith("DRIVER="):
            return line.removeprefix("DRIVER=").strip()
    try:
        return (folder / "driver").readlink().name if may_read(folder) else ""
    except OSError:
        return ""


def _hex(path: Path) -> int | None:
    try:
        return int(read(path), 16)
    except ValueError:
        return None


def _children(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(folder.iterdir())
    except OSError:
        return
