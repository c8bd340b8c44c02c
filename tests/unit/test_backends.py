"""What the box has beside what the installed llama.cpp can use."""

from pathlib import Path

import pytest

from agent.doctor.backends import BACKENDS, advise, backends_of, compare, target_of
from agent.engine.messages import Device
from agent.findings import Finding, Severity
from agent.hardware.gpu import socs
from agent.hardware.gpu.worth import judged
from agent.hardware.machine import Board, Cpu, Gpu, Machine, Memory

GIB = 1 << 30
CPU = Device("CPU", "Cortex-A78AE", "cpu", 8 * GIB, 8 * GIB)
BUILD = "llama-cpp-python 0.3.36"
TARGETS = Path(__file__).parents[2] / "build" / "targets.yaml"

ORIN = Board(name="Jetson Orin Nano", compatible=("nvidia,tegra234",), release="R36.4.7")
CARD = Gpu(name="NVIDIA GeForce RTX 4070", vendor="nvidia", api="cuda", kind="discrete")
RADEON = Gpu(name="Radeon RX 7900", vendor="amd", api="vulkan", kind="discrete", driver="amdgpu")


def box(*gpus: Gpu, board: Board | None = None, total: int = 32 * GIB) -> Machine:
    memory = Memory(total_bytes=total)
    judged_gpus = tuple(judged(gpu) for gpu in gpus)
    return Machine(cpu=Cpu(arch="aarch64"), memory=memory, board=board or Board(), gpus=judged_gpus)


def own(compatible: str) -> Gpu:
    """The GPU of a chip."""
    gpu = socs.gpu(Cpu(arch="aarch64"), Board(compatible=(compatible,)))
    assert gpu
    return gpu


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


def test_a_box_without_a_gpu_has_nothing_to_say() -> None:
    """Nor has one with a virtual display."""
    assert compare(box(), (CPU,), BUILD) == []
    assert compare(box(Gpu(name="virtual display", kind="virtual")), (CPU,), BUILD) == []


@pytest.mark.parametrize(
    ("gpu", "target"),
    [
        (own("nvidia,tegra234"), "cuda-orin"),
        (own("nvidia,tegra194"), "cuda-xavier"),
        (own("nvidia,tegra210"), "cuda-nano"),
        (own("nvidia,tegra264"), "cuda-thor"),
        (socs.GB10, "cuda"),
        (CARD, "cuda"),
        (RADEON, "vulkan"),
        (socs.METAL, "metal"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_gpu_that_the_build_cannot_use_names_its_target(gpu: Gpu, target: str) -> None:
    """As a warning: answers could come faster."""
    finding = only(compare(box(gpu), (CPU,), BUILD))
    assert (finding.severity, finding.code) == (Severity.WARNING, "gpu_no_backend")
    assert gpu.name in finding.what
    assert f"for the target {target}," in finding.remedy
    assert f"TAMPU_TARGET={target} ./build/quickstart" in finding.remedy


def test_every_target_named_here_is_a_recipe() -> None:
    """A remedy that cannot be followed is none."""
    if not TARGETS.exists():
        pytest.skip("there are no recipes here")
    named = {target_of(gpu) for soc in socs.SOCS if (gpu := soc.gpu).vendor == "nvidia"} - {""}
    for target in named | {"cuda", "vulkan", "metal"}:
        assert f"\n{target}:" in TARGETS.read_text()


def test_a_card_too_old_for_the_cuda_target_takes_vulkan() -> None:
    """The target `cuda` begins at Turing, capability 7.5."""
    pascal = Gpu(name="GTX 1080", vendor="nvidia", api="cuda", kind="discrete", compute_capability="6.1")
    finding = only(compare(box(pascal), (CPU,), BUILD))
    assert "TAMPU_TARGET=vulkan" in finding.remedy
    assert "no Vulkan" in finding.what
    device = Device("Vulkan0", "NVIDIA GeForce GTX 1080", "gpu", 8 * GIB, 8 * GIB)
    assert compare(box(pascal), (CPU, device), BUILD) == []


@pytest.mark.parametrize(
    ("compatible", "release", "severity", "word"),
    [
        ("nvidia,tegra210", "R32.7.1", Severity.NOTE, ""),
        ("nvidia,tegra186", "R32.7.1", Severity.NOTE, ""),
        ("nvidia,tegra194", "Jetson Linux R32.7.1", Severity.WARNING, "Upgrade to JetPack 5"),
        ("nvidia,tegra194", "R35.4.1", Severity.WARNING, "cuda-xavier"),
    ],
)
def test_what_jetpack_4_cannot_compile(compatible: str, release: str, severity: Severity, word: str) -> None:
    """Boards that have nothing newer stay on their CPU; a Xavier is upgraded first."""
    board = Board(compatible=(compatible,), release=release)
    finding = only(compare(box(own(compatible), board=board), (CPU,), BUILD))
    assert finding.severity is severity
    assert word in finding.remedy
    assert bool(finding.remedy) is bool(word)


def test_a_gpu_in_use_is_no_trouble() -> None:
    """That it shares the RAM is good to know."""
    device = Device("CUDA0", "NVIDIA GeForce RTX 4070", "gpu", 8 * GIB, 8 * GIB)
    assert compare(box(CARD), (CPU, device), BUILD) == []
    chip = Device("CUDA0", "Orin", "igpu", 30 * GIB, 30 * GIB)
    finding = only(compare(box(own("nvidia,tegra234"), board=ORIN), (CPU, chip), BUILD))
    assert (finding.severity, finding.code) == (Severity.NOTE, "gpu_shares_ram")


def test_a_small_jetson_needs_a_build_without_reserved_addresses() -> None:
    """Unless the build says that it is one."""
    machine = box(own("nvidia,tegra234"), board=ORIN, total=7 * GIB)
    chip = Device("CUDA0", "Orin", "igpu", 7 * GIB, 7 * GIB)
    codes = [finding.code for finding in compare(machine, (CPU, chip), BUILD)]
    assert codes == ["gpu_shares_ram", "cuda_vmm"]
    for build in ("CUDA : NO_VMM = 1 | CPU : NEON = 1", f"{BUILD}+cuda-orin"):
        assert [finding.code for finding in compare(machine, (CPU, chip), build)] == ["gpu_shares_ram"]


def test_a_build_that_finds_no_device_asks_for_the_driver() -> None:
    """Or for the right to open it, where that is what is known."""
    finding = only(compare(box(CARD), (CPU,), f"{BUILD}; CUDA : ARCHS = 750"))
    assert (finding.severity, finding.code) == (Severity.WARNING, "gpu_no_device")
    assert "nvidia-smi" in finding.remedy
    assert "mesa-vulkan-drivers" in only(compare(box(RADEON), (CPU,), "vulkan")).remedy
    closed = Gpu(
        name="Radeon RX 7900", vendor="amd", api="vulkan", kind="discrete", is_usable=False,
        reason="this user may not open /dev/dri/renderD128",
    )  # fmt: skip
    assert "groups video and render" in only(compare(box(closed), (CPU,), "vulkan")).remedy
    nouveau = Gpu(name="GeForce RTX 4070", vendor="nvidia", api="cuda", kind="discrete", driver="nouveau")
    assert "nouveau has no CUDA" in only(compare(box(nouveau), (CPU,), "cuda")).remedy
    jetson = only(compare(box(own("nvidia,tegra234")), (CPU,), "cuda"))
    assert "/dev/nvmap" in jetson.remedy


def test_a_gpu_without_a_driver_and_a_build_without_its_backend_need_both() -> None:
    """The driver first."""
    reason = "the kernel has no driver for it in use"
    bare = Gpu(name="RX", vendor="amd", api="vulkan", kind="discrete", is_usable=False, reason=reason)
    remedy = only(compare(box(bare), (CPU,), BUILD)).remedy
    assert remedy.index("lspci -k") < remedy.index("TAMPU_TARGET=vulkan")


def test_another_vendors_vulkan_device_is_another_gpu() -> None:
    """The card is not found only because the processor's GPU is."""
    device = Device("Vulkan0", "Intel(R) Iris(R) Xe Graphics", "igpu", 8 * GIB, 8 * GIB)
    assert only(compare(box(RADEON), (CPU, device), BUILD)).code == "gpu_no_device"


def test_an_nvidia_card_behind_vulkan_would_be_faster_with_cuda() -> None:
    """It works; a note says how it would work better."""
    device = Device("Vulkan0", "NVIDIA GeForce RTX 4070", "gpu", 8 * GIB, 8 * GIB)
    finding = only(compare(box(CARD), (CPU, device), BUILD))
    assert (finding.severity, finding.code) == (Severity.NOTE, "gpu_slower_way")


def test_a_software_device_is_passed_over() -> None:
    """Whether the box's drivers list it, or the registry, or both: it is said once."""
    device = Device("Vulkan0", "llvmpipe (LLVM 15.0.6, 256 bits)", "gpu", 2 * GIB, 2 * GIB)
    software = Gpu(name=device.description, vendor="mesa", api="vulkan", kind="software")
    for machine in (box(software), box()):
        finding = only(compare(machine, (CPU, device), BUILD))
        assert (finding.severity, finding.code) == (Severity.NOTE, "gpu_software")


@pytest.mark.parametrize(
    ("gpu", "code"),
    [
        (own("brcm,bcm2711"), "gpu_not_worth_it"),
        (own("rockchip,rk3588"), "gpu_not_worth_it"),
        (own("nvidia,tegra124"), "gpu_too_old"),
    ],
    ids=["pi", "rk3588", "tk1"],
)
def test_a_gpu_that_would_not_help_is_a_note_with_its_reason(gpu: Gpu, code: str) -> None:
    """And asks nothing of anybody."""
    finding = only(compare(box(gpu), (CPU,), BUILD))
    assert (finding.severity, finding.code, finding.remedy) == (Severity.NOTE, code, "")
    assert judged(gpu).reason in finding.what


def test_backends_are_told_by_devices_and_by_the_builds_own_words() -> None:
    """ggml calls Metal's devices MTL0 or Metal."""
    assert backends_of((CPU,), BUILD) == set()
    assert backends_of((Device("MTL0", "Apple M1", "gpu", 1, 1),), BUILD) == {"metal"}
    assert backends_of((), "CUDA : ARCHS = 870 | CPU : NEON = 1") == {"cuda"}
    assert backends_of((), f"{BUILD}+cuda-orin") == {"cuda"}
    assert backends_of((Device("Vulkan1", "x", "gpu", 1, 1),), "") == {"vulkan"}
    assert set(BACKENDS) == {"cuda", "vulkan", "metal"}


def test_a_recorded_gpu_is_told_which_build_it_wants() -> None:
    """As a note: nobody knows what is installed there."""
    finding = only(advise(box(own("nvidia,tegra234"))))
    assert (finding.severity, finding.code) == (Severity.NOTE, "gpu_wants_build")
    assert "takes a build of llama.cpp with CUDA" in finding.what
    assert "TAMPU_TARGET=cuda-orin" in finding.remedy
    assert only(advise(box(own("brcm,bcm2711")))).code == "gpu_not_worth_it"
