"""What the box has for us now: read for placement, by the daemon and by the doctor."""

from collections.abc import Iterable
from pathlib import Path

from agent.catalog.measurements import Measurements, box_key, build_key, load_all
from agent.catalog.ways import SLOW_DISK_BYTES_S, Resources, is_unified
from agent.config import Config
from agent.engine.messages import Device, Hello
from agent.hardware.cores import usable_cores
from agent.hardware.gpu.vendors import is_software, of_name
from agent.hardware.gpu.worth import verdict
from agent.hardware.machine import Cpu, Gpu, GpuApi, Machine
from agent.hardware.memory import rooms
from agent.hardware.process import anonymous_bytes
from agent.hardware.storage import storage
from agent.places import measurements_folder

GPU_KINDS = ("gpu", "igpu")
# A core that the kernel rates below this part of the fastest would keep the others waiting.
FAST_ENOUGH = 0.5
# How the registry's names begin.
APIS: tuple[tuple[str, GpuApi], ...] = (
    ("CUDA", "cuda"),
    ("Vulkan", "vulkan"),
    ("MTL", "metal"),
    ("Metal", "metal"),
)


def read_resources(
    root: Path,
    pids: Iterable[int],
    level: int,
    *,
    own_bytes: int = 0,
    machine: Machine | None = None,
    hello: Hello | None = None,
    config: Config | None = None,
) -> Resources:
    """What there is under `root`. Raises OSError without /proc.

    What the processes `pids` hold already is ours as well, and so are `own_bytes` more; `level` is the
    budget's (agent/memory_level.py). `hello` says what the engine can compute on, `machine` what the
    CPU can do; `config` where the models lie and whether a GPU is asked for.
    """
    own = own_bytes + sum(anonymous_bytes(pid, root) for pid in pids)
    box, *cgroups = rooms(root)
    measurements = _measured(machine, hello)
    disk_bytes_s = storage(Path(config.models.folder), root).read_bytes_s if config else None
    return Resources(
        available_bytes=box.available_bytes + own,
        cgroup_bytes=min((room.available_bytes + own for room in cgroups), default=None),
        cores=fast_cores(machine.cpu if machine else None, usable_cores(root)),
        level=level,
        features=machine.cpu.features if machine else (),
        devices=usable_devices(hello.devices, config, measurements) if hello else (),
        measurements=measurements,
        disk_bytes_s=disk_bytes_s or SLOW_DISK_BYTES_S,
    )


def fast_cores(cpu: Cpu | None, usable: int) -> int:
    """How many of the usable cores compute at a pace: the little ones of a big.LITTLE chip do not."""
    rated = [cluster for cluster in cpu.clusters if cluster.capacity] if cpu else []
    fastest = max((cluster.capacity or 0 for cluster in rated), default=0)
    fast = sum(cluster.cpus for cluster in rated if (cluster.capacity or 0) >= fastest * FAST_ENOUGH)
    return min(usable, fast) if fast else usable


def usable_devices(
    devices: tuple[Device, ...], config: Config | None, measurements: tuple[Measurements, ...]
) -> tuple[Device, ...]:
    """The GPUs that beat the CPU, by what is known or was measured of them; all when one is asked for.

    A processor that poses as a GPU is one only for who asks for it.
    """
    gpus = [device for device in devices if device.kind in GPU_KINDS]
    wish = config.engine.gpu if config else "auto"
    if wish == "off":
        return ()
    measured = {speed.device for one in measurements for speed in one.speeds}
    found = [
        device
        for device in gpus
        if wish != "auto" or device.name in measured or verdict(as_gpu(device)).is_worth_it
    ]
    # The one with memory of its own first, then the one with most.
    return tuple(sorted(found, key=lambda device: (is_unified(device), -device.free_bytes)))


def as_gpu(device: Device) -> Gpu:
    """A device of ggml's registry in the words of the probes."""
    api: GpuApi = next((api for prefix, api in APIS if device.name.startswith(prefix)), "")
    if is_software(device.description):
        return Gpu(name=device.description, api=api, kind="software", is_usable=True)
    unified = is_unified(device)
    return Gpu(
        name=device.description,
        vendor=of_name(device.description) or {"cuda": "nvidia", "metal": "apple"}.get(api, ""),
        api=api,
        kind="integrated" if unified else "discrete",
        is_unified=unified,
        total_bytes=device.total_bytes,
        free_bytes=device.free_bytes,
        is_usable=True,
    )


def _measured(machine: Machine | None, hello: Hello | None) -> tuple[Measurements, ...]:
    """Figures of this box and build (any build while nobody has asked for it) that nobody disturbed:
    others' load makes them low, and unevenly so."""
    if machine is None:
        return ()
    box = box_key(machine.cpu, (gpu.name for gpu in machine.gpus))
    build = build_key(hello.build, (device.name for device in hello.devices)) if hello else None
    return tuple(one for one in load_all(measurements_folder(), box, build) if not one.is_disturbed)
