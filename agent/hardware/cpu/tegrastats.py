"""A line of NVIDIA's tegrastats, as people paste it: memory, and which CPUs of the Jetson are on.

RAM 1409/3964MB (lfb 28x4MB) SWAP 0/1982MB (cached 0MB) CPU [22%@518,67%@518,off,off] ...
"""

import re

from agent.hardware.machine import Cpu, Memory

RAM = re.compile(r"\bRAM (\d{1,9})/(\d{1,9})MB")
SWAP = re.compile(r"\bSWAP \d{1,9}/(\d{1,9})MB")
CPUS = re.compile(r"\bCPU \[([^\]\n]{1,1000})\]")


def parse_memory(text: str) -> Memory | None:
    """RAM and swap; None where there is no such line."""
    match, swap = RAM.search(text), SWAP.search(text)
    if not match:
        return None
    used, total = int(match[1]) << 20, int(match[2]) << 20
    return Memory(
        total_bytes=total,
        available_bytes=max(0, total - used),
        swap_bytes=int(swap[1]) << 20 if swap else None,
    )


def parse_cpu(text: str) -> Cpu:
    """How many CPUs are on and off; of which kind they are it does not say."""
    match = CPUS.search(text)
    words = match[1].split(",") if match else []
    off = words.count("off")
    online = max(1, len(words) - off)
    return Cpu(arch="", cpus=online, cores=online, offline=off)
