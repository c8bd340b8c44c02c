"""Which accelerators the box has: the kernel's view, what comes with the chip, and drivers' answers.

`gpus` is cheap and loads no driver library; what drivers say is asked in a child of its own
(ask_drivers.py) and put together here.
"""

import re
from pathlib import Path

from msgspec.structs import replace

from agent.hardware.gpu import cpu_graphics, drm, socs
from agent.hardware.gpu.device_nodes import closed
from agent.hardware.gpu.driver_answer import Asked
from agent.hardware.gpu.worth import judged
from agent.hardware.machine import Board, Cpu, Gpu
from agent.hardware.text import is_kept

VIRTUAL_BOARD = re.compile(
    r"virtual|vmware|qemu|\bkvm\b|bochs|\bxen\b|hvm domu|parallels|dummy-virt"
    r"|cloud hypervisor|firecracker|bhyve"
)
NAMELESS = re.compile(r"GPU [0-9a-f]{4}:[0-9a-f]{4}$")
# Server cores, whose chips have no GPU.
SERVER_CORES = re.compile(
    r"neoverse|azurecobalt|ampere|thunderx|falkor|tsv110|a64fx|taishan|power\d|c920|sg2042|z1[0-9]"
)
SERVER_ARCHS = ("ppc64", "s390")
# So many equal cores of a phone are a server's (Graviton 1: 16 A72). A Jetson AGX Orin has 12.
MANY_PHONE_CORES = 16
MANY_CORES = 32


def gpus(root: Path, cpu: Cpu, board: Board) -> tuple[Gpu, ...]:
    """The GPUs of the box, judged, as far as the kernel and the chip tell. Raises nothing."""
    found = list(drm.cards(root))
    if is_virtual(board):
        pass  # what the name of the processor promises stays with the host
    elif own := socs.gpu(cpu, board):
        found = _with_own(own, found)
    elif graphics := cpu_graphics.integrated(cpu):
        found = [_named(graphics, gpu) for gpu in found] if drm.sees_pci(root) else [graphics, *found]
    return tuple(judged(_with_access(root, gpu)) for gpu in found)


def unified_memory(cpu: Cpu, board: Board, gpus: tuple[Gpu, ...]) -> bool | None:
    """True when a GPU shares the RAM, False when none does; None when nothing tells."""
    real = [gpu for gpu in gpus if gpu.kind not in ("software", "virtual")]
    if real:
        return any(gpu.is_unified for gpu in real)
    if is_virtual(board) or len(gpus) > len(real) or _is_server(cpu) or cpu_graphics.has_none(cpu):
        return False
    return True if _is_phone_chip(cpu) else None


def confirmed(found: tuple[Gpu, ...], asked: Asked) -> tuple[Gpu, ...]:
    """What the box has (`found`) with what its drivers say: exact names, sizes, and whether they can be used.

    One GPU answers to several drivers: CUDA's answer goes before Vulkan's. A GPU for which no driver
    speaks cannot be used, unless asking went wrong. Drivers' GPUs that the kernel does not show are added.
    """
    answers = _without_doubles(asked.gpus)
    merged = []
    for gpu in found:
        answer = next((one for one in answers if _is_same(gpu, one)), None)
        if answer:
            answers.remove(answer)
            merged.append(_merged(gpu, answer))
        else:
            merged.append(gpu if asked.reason or gpu.kind == "virtual" else _unanswered(gpu))
    return tuple(judged(gpu) for gpu in (*merged, *answers))


def is_virtual(board: Board) -> bool:
    """Whether the board is a hypervisor's."""
    text = " ".join((board.name, board.vendor, *board.compatible)).lower()
    return bool(VIRTUAL_BOARD.search(text))


def _with_own(own: Gpu, found: list[Gpu]) -> list[Gpu]:
    """The chip's own GPU in the place of the kernel's less exact word for it."""
    for place, gpu in enumerate(found):
        # Thor's and GB10's are on the PCI bus; without driver and table they look like a card.
        if gpu.vendor == own.vendor and (gpu.kind == "integrated" or NAMELESS.search(gpu.name)):
            found[place] = replace(own, driver=gpu.driver, is_usable=gpu.is_usable, reason=gpu.reason)
            return found
    return [own, *found]


def _named(graphics: Gpu, gpu: Gpu) -> Gpu:
    """What the processor's name says of its GPU, where no table has a name for it."""
    is_it = gpu.kind == "integrated" and gpu.vendor == graphics.vendor and NAMELESS.search(gpu.name)
    return replace(gpu, name=graphics.name) if is_it else gpu


def _with_access(root: Path, gpu: Gpu) -> Gpu:
    node = closed(root, gpu.vendor) if gpu.kind != "virtual" and not is_kept() else ""
    return replace(gpu, is_usable=False, reason=f"this user may not open {node}") if node else gpu


def _without_doubles(gpus: tuple[Gpu, ...]) -> list[Gpu]:
    """Vulkan's word for GPUs that CUDA or Metal has answered for goes."""
    vendors = {gpu.vendor for gpu in gpus if gpu.api in ("cuda", "metal")}
    return [gpu for gpu in gpus if gpu.api != "vulkan" or gpu.vendor not in vendors]


def _is_same(gpu: Gpu, answer: Gpu) -> bool:
    return gpu.vendor == answer.vendor and (not gpu.kind or not answer.kind or gpu.kind == answer.kind)


def _merged(gpu: Gpu, answer: Gpu) -> Gpu:
    return replace(
        answer,
        driver=answer.driver or gpu.driver,
        compute_capability=answer.compute_capability or gpu.compute_capability,
        is_unified=answer.is_unified or gpu.is_unified,
        total_bytes=answer.total_bytes or gpu.total_bytes,
    )


def _unanswered(gpu: Gpu) -> Gpu:
    reason = gpu.reason if gpu.is_usable is False else f"no {gpu.api or 'GPU'} driver answers for it"
    return replace(gpu, is_usable=False, reason=reason)


def _is_server(cpu: Cpu) -> bool:
    names = socs.cores(cpu)
    if cpu.arch.startswith(SERVER_ARCHS) or any(
        SERVER_CORES.search(name) for name in (*names, cpu.model.lower())
    ):
        return True
    if cpu.arch == "loongarch64":
        return "3" in cpu.model.partition("-")[2][:1]  # Loongson-3x has no GPU, 2K has
    is_x86 = cpu.arch in ("x86_64", "i686", "i386")
    return not is_x86 and cpu.cpus >= (MANY_PHONE_CORES if _has_phone_cores(names) else MANY_CORES)


def _is_phone_chip(cpu: Cpu) -> bool:
    """Cores as phones and small boards have them come with a GPU."""
    return _has_phone_cores(socs.cores(cpu))


def _has_phone_cores(names: list[str]) -> bool:
    return any(name.startswith(("cortexa", "cortexx", "kryo", "arm1176")) for name in names)
