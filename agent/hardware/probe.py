"""Everything a box tells about itself, through one door: this box, or a recording of another."""

import os
import re
import struct
import sys
from pathlib import Path

from msgspec import Struct

from agent.errors import ProbeError
from agent.hardware import kernel, recording
from agent.hardware.board import parse_compatible, read_board, read_compatible
from agent.hardware.cpu import cpuinfo, sysctl, tegrastats
from agent.hardware.cpu.processor import read_cpu
from agent.hardware.gpu import nvidia_smi, vulkaninfo
from agent.hardware.gpu.gpus import gpus, unified_memory
from agent.hardware.gpu.worth import judged
from agent.hardware.heat import read_heat
from agent.hardware.kernel import Kernel
from agent.hardware.machine import Board, Cpu, Gpu, Machine, Memory
from agent.hardware.memory import rooms
from agent.hardware.power import read_power
from agent.hardware.ram import read_memory
from agent.hardware.recording import Texts
from agent.hardware.text import clean, kept_in, printable_path

ROOT = Path("/")
SYSCTL = ["/usr/sbin/sysctl", "hw", "machdep.cpu"]
SYSCTL_S = 5.0
PRETTY_NAME = re.compile(r"^PRETTY_NAME=[\"']?([^\"'\n]*)", re.MULTILINE)


class _Here(Struct, frozen=True):
    """What Python itself knows of the box it runs on; "" for a recording."""

    kernel: str = ""
    arch: str = ""
    system: str = ""


def probe(root: Path = ROOT) -> Machine:
    """Look at this box (`/`), or at a recording: a tree with proc/ and sys/, a folder of texts, or one file.

    What nothing tells stays empty. Raises ProbeError for a recording that cannot be used.
    """
    if root == ROOT and sys.platform == "darwin":
        return _this_mac()
    if root == ROOT:
        return _machine(recording.of_tree(root), root, _here())
    with kept_in(root):
        machine = _machine(recording.load(root), root, _Here())
    if machine == Machine(cpu=Cpu(arch="")):
        raise ProbeError(
            f"{printable_path(root)}: what lies here is empty or cannot be read; {recording.ASK}"
        )
    return machine


def _here() -> _Here:
    name = os.uname()
    arch = kernel.ARCHS.get(name.machine, name.machine)
    if struct.calcsize("P") == 4:
        # A 32-bit system under a 64-bit kernel, as Raspberry Pi OS has: what counts is what we can run.
        arch = {"aarch64": "armv7l", "x86_64": "i686"}.get(arch, arch)
    return _Here(kernel=name.release, arch=arch)


def _this_mac() -> Machine:
    # Elsewhere nobody waits for these to be imported.
    import platform
    import subprocess

    try:
        done = subprocess.run(SYSCTL, capture_output=True, timeout=SYSCTL_S, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise ProbeError(f"{SYSCTL[0]} does not answer ({error}); run it by hand to see why") from error
    system = f"macOS {platform.mac_ver()[0]}"
    texts = Texts(sysctl=done.stdout.decode("utf-8", "replace"))
    return _machine(texts, ROOT, _Here(kernel=os.uname().release, system=system))


def _machine(texts: Texts, root: Path, here: _Here) -> Machine:
    told = kernel.parse(texts.kernel)
    if mac := sysctl.parse(texts.sysctl):
        cpu, total, board = mac
        memory = _mac_memory(total) if here.system else Memory(total_bytes=total)
    else:
        cpu, board = _cpu_and_board(texts, root, told, here)
        memory = read_memory(root, texts.meminfo, texts.free, texts.tegrastats)
    found = _gpus(texts, root, cpu, board)
    match = PRETTY_NAME.search(texts.os_release)
    return Machine(
        cpu=cpu,
        memory=memory,
        board=board,
        gpus=found,
        has_unified_memory=unified_memory(cpu, board, found),
        heat=read_heat(root, texts.throttled),
        power=read_power(root),
        kernel=here.kernel or told.release,
        system=here.system or (clean(match[1]) if match else ""),
    )


def _cpu_and_board(texts: Texts, root: Path, told: Kernel, here: _Here) -> tuple[Cpu, Board]:
    compatible = read_compatible(root) or parse_compatible(texts.compatible)
    arch = here.arch or told.arch
    if texts.tegrastats and not (texts.cpuinfo or texts.lscpu):
        cpu = tegrastats.parse_cpu(texts.tegrastats)
    else:
        cpu = read_cpu(texts.cpuinfo, texts.lscpu, root, kernel_arch=arch, compatible=compatible)
    board = read_board(
        root,
        cpuinfo.parse(texts.cpuinfo),
        cpu.arch,
        compatible=compatible,
        model=texts.model,
        tegra_release=texts.tegra_release,
        is_jetson=bool(texts.tegrastats),
    )
    return cpu, board


def _mac_memory(total: int | None) -> Memory:
    try:
        return Memory(total_bytes=total, available_bytes=rooms(ROOT)[0].available_bytes)
    except OSError:
        return Memory(total_bytes=total)


def _gpus(texts: Texts, root: Path, cpu: Cpu, board: Board) -> tuple[Gpu, ...]:
    """What drivers have written down is surer than what the chip's name tells, unless it is no GPU at all."""
    own = gpus(root, cpu, board)
    recorded = nvidia_smi.parse(texts.nvidia_smi)
    if mute := nvidia_smi.without_driver(texts.nvidia_smi, own):
        own = (*(gpu for gpu in own if gpu.vendor != "nvidia"), *(judged(gpu) for gpu in mute))
    makers = {gpu.vendor for gpu in recorded if gpu.vendor}
    # On a Mac Vulkan is Metal under another name (MoltenVK).
    makers |= {gpu.vendor for gpu in own if gpu.api == "metal"}
    recorded += tuple(gpu for gpu in vulkaninfo.parse(texts.vulkaninfo) if gpu.vendor not in makers)
    is_answered = any(gpu.kind != "software" for gpu in recorded)
    return (*(() if is_answered else own), *(judged(gpu) for gpu in recorded))
