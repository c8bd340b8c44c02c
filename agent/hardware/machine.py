"""The words for what a box has. Probes fill them; None and "" mean that nothing tells.

Sizes are in bytes, frequencies in MHz, temperatures in degrees Celsius.
"""

from typing import Literal

from msgspec import Struct

GpuApi = Literal["cuda", "metal", "vulkan", ""]
GpuKind = Literal["discrete", "integrated", "software", "virtual", ""]
StorageKind = Literal["nvme", "ssd", "emmc", "sd", "usb", "disk", "network", "memory", ""]


class Cluster(Struct, frozen=True, kw_only=True):
    """Cores of one kind. `capacity` is the kernel's: 1024 for the fastest core of the box."""

    microarchitecture: str
    cpus: int
    capacity: int | None = None
    max_mhz: int | None = None


class Cpu(Struct, frozen=True, kw_only=True):
    """`arch` is the kernel's, as `uname -m` writes it on Linux (macOS's arm64 is aarch64); `features` are
    those that every CPU has, by the usual names (hardware/cpu/features.py); `cpus` counts hardware threads
    that are online, `cores` physical cores, `offline` CPUs that are present and switched off. `is_64bit`:
    the cores could run a 64-bit system, whatever runs now (None: nothing tells)."""

    arch: str
    vendor: str = ""
    model: str = ""
    microarchitecture: str = ""
    features: tuple[str, ...] = ()
    cpus: int = 1
    cores: int = 1
    clusters: tuple[Cluster, ...] = ()
    offline: int = 0
    is_64bit: bool | None = None


class Memory(Struct, frozen=True, kw_only=True):
    """`limit_bytes` is the tightest of our cgroups' limits; `zram_bytes` the size of compressed swap."""

    total_bytes: int | None = None
    available_bytes: int | None = None
    swap_bytes: int | None = None
    zram_bytes: int | None = None
    limit_bytes: int | None = None


class Board(Struct, frozen=True, kw_only=True):
    """From the device tree or DMI. `family` is one of ours (hardware/families.py): raspberry-pi, jetson,
    rockchip, apple, pc, ...; `release` the vendor's system release (Jetson Linux R36.4.7)."""

    name: str = ""
    vendor: str = ""
    family: str = ""
    compatible: tuple[str, ...] = ()
    release: str = ""


class Gpu(Struct, frozen=True, kw_only=True):
    """One accelerator, present in the box.

    `is_usable`: drivers and libraries to compute on it are there (None: nothing tells);
    `is_worth_it`: it beats the CPU for our work. `reason` is one sentence why it is or is not.
    """

    name: str
    vendor: str = ""
    api: GpuApi = ""
    kind: GpuKind = ""
    driver: str = ""
    compute_capability: str = ""
    is_unified: bool = False
    total_bytes: int | None = None
    free_bytes: int | None = None
    is_usable: bool | None = None
    is_worth_it: bool = False
    reason: str = ""


class Heat(Struct, frozen=True, kw_only=True):
    """`throttled` names what the box does about heat or voltage now, `throttled_before` since it was
    started; `trip_celsius` is where the hottest zone begins to slow down."""

    zone: str = ""
    celsius: float | None = None
    trip_celsius: float | None = None
    throttled: tuple[str, ...] = ()
    throttled_before: tuple[str, ...] = ()


class Storage(Struct, frozen=True, kw_only=True):
    """The disk under a folder. `read_bytes_s` is what such a medium reads, not a measurement."""

    device: str = ""
    kind: StorageKind = ""
    read_bytes_s: int | None = None
    total_bytes: int | None = None
    free_bytes: int | None = None


class Power(Struct, frozen=True, kw_only=True):
    """Where the power comes from; `battery_percent` None without a battery."""

    source: Literal["mains", "battery", ""] = ""
    battery_percent: int | None = None


class Machine(Struct, frozen=True, kw_only=True):
    """All of it. `has_unified_memory`: CPU and GPU share the RAM (None: nothing tells)."""

    cpu: Cpu
    memory: Memory = Memory()
    board: Board = Board()
    gpus: tuple[Gpu, ...] = ()
    has_unified_memory: bool | None = None
    heat: Heat = Heat()
    power: Power = Power()
    kernel: str = ""
    system: str = ""
