"""Which GPUs a box has, by the kernel, by its chip and by recorded dumps; and do they share the RAM."""

import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.hardware.gpu import cpu_graphics, device_nodes, pci_names
from agent.hardware.gpu.driver_answer import Asked
from agent.hardware.gpu.gpus import confirmed, gpus, unified_memory
from agent.hardware.machine import Board, Cluster, Cpu, Gpu

DUMPS = Path(__file__).parents[3] / "shared" / "devices"
GIB = 1 << 30
NOBODY = Cpu(arch="x86_64")
PARTS = {
    "0xb76": "ARM1176", "0xc07": "Cortex-A7", "0xc0f": "Cortex-A15", "0xd03": "Cortex-A53",
    "0xd05": "Cortex-A55", "0xd07": "Cortex-A57", "0xd08": "Cortex-A72", "0xd0b": "Cortex-A76",
    "0xd40": "Neoverse-V1", "0xd41": "Cortex-A78", "0x003": "Denver 2", "0x022": "Icestorm",
    "0x023": "Firestorm", "0xd80": "Cortex-A520", "0xd81": "Cortex-A720", "0xd82": "Cortex-X4",
    "0xd85": "Cortex-X925", "0xd87": "Cortex-A725",
}  # fmt: skip


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def pci(address: str, vendor: str, device: str, driver: str = "", **more: str) -> dict[str, str]:
    """A display adapter as sysfs shows it."""
    folder = f"sys/bus/pci/devices/{address}"
    uevent = f"DRIVER={driver}\nPCI_CLASS=30000\n" if driver else "PCI_CLASS=30000\n"
    files = {"class": "0x030000\n", "vendor": f"0x{vendor}\n", "device": f"0x{device}\n", "uevent": uevent}
    return {f"{folder}/{name}": text for name, text in (files | more).items()}


# ---- the kernel's view ---------------------------------------------------------------------------


def test_a_box_without_anything_has_no_gpu(tmp_path: Path) -> None:
    """And nothing tells whether memory is shared."""
    assert gpus(tmp_path, NOBODY, Board()) == ()
    assert unified_memory(NOBODY, Board(), ()) is None


def test_a_laptop_with_two_gpus(tmp_path: Path) -> None:
    """The one in the processor shares the RAM and is too small; the card has its own memory."""
    tree(tmp_path, pci("0000:00:02.0", "8086", "a788", "i915"))
    tree(tmp_path, pci("0000:01:00.0", "10de", "2860", "nvidia"))
    tree(
        tmp_path,
        {
            "proc/driver/nvidia/gpus/0000:01:00.0/information": (
                "Model: \t\t NVIDIA GeForce RTX 4070 Laptop GPU\nIRQ:   \t\t 190\n"
            ),
            "proc/driver/nvidia/version": (
                "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue Sep 23 10:11:16 UTC 2025\n"
            ),
        },
    )
    own, card = gpus(tmp_path, Cpu(arch="x86_64", model="13th Gen Intel(R) Core(TM) i9-13980HX"), Board())
    assert (own.vendor, own.kind, own.is_unified, own.is_worth_it) == ("intel", "integrated", True, False)
    assert (card.name, card.kind) == ("NVIDIA GeForce RTX 4070 Laptop GPU", "discrete")
    assert (card.driver, card.api, card.is_worth_it) == ("nvidia 580.95.05", "cuda", True)
    assert unified_memory(NOBODY, Board(), (own, card)) is True
    assert unified_memory(NOBODY, Board(), (card,)) is False


def test_amd_says_how_much_memory_a_card_has(tmp_path: Path) -> None:
    """Processors and cards are told apart by their numbers."""
    tree(tmp_path, pci("0000:03:00.0", "1002", "744c", "amdgpu", mem_info_vram_total=f"{24 * GIB}\n"))
    tree(tmp_path, pci("0000:0c:00.0", "1002", "15bf", "amdgpu", mem_info_vram_total=f"{GIB}\n"))
    card, own = gpus(tmp_path, NOBODY, Board())
    assert (card.kind, card.total_bytes, card.is_unified) == ("discrete", 24 * GIB, False)
    assert (own.kind, own.total_bytes, own.is_unified) == ("integrated", GIB, True)


def test_a_card_without_a_driver_cannot_be_used(tmp_path: Path) -> None:
    """Nor one that is kept for a virtual machine."""
    tree(tmp_path, pci("0000:03:00.0", "1002", "744c"))
    tree(tmp_path, pci("0000:04:00.0", "8086", "56a0", "vfio-pci"))
    for gpu in gpus(tmp_path, NOBODY, Board()):
        assert gpu.kind == "discrete"
        assert gpu.is_usable is False
        assert gpu.reason == "the kernel has no driver for it in use"


def test_the_driver_is_found_by_its_link_too(tmp_path: Path) -> None:
    """As a running kernel shows it."""
    tree(tmp_path, pci("0000:00:02.0", "8086", "a7a0"))
    link = tmp_path / "sys/bus/pci/devices/0000:00:02.0/driver"
    link.symlink_to("../../../../bus/pci/drivers/xe")
    assert gpus(tmp_path, NOBODY, Board())[0].driver == "xe"


def test_an_accelerator_of_amd_is_a_card_without_a_screen(tmp_path: Path) -> None:
    """An Instinct; NEC's vector engine has the same class."""
    files = pci("0000:03:00.0", "1002", "74a1", "amdgpu") | pci("0000:04:00.0", "1bcf", "001c", "ve_drv")
    classes = {name: "0x120000\n" for name in files if name.endswith("/class")}
    (gpu,) = gpus(tree(tmp_path, files | classes), NOBODY, Board())
    assert (gpu.vendor, gpu.kind, gpu.is_worth_it) == ("amd", "discrete", True)


def test_a_management_chip_is_no_gpu(tmp_path: Path) -> None:
    """A server's display adapter shows a console."""
    tree(tmp_path, pci("0000:05:00.0", "1a03", "2000", "ast"))
    assert gpus(tmp_path, NOBODY, Board()) == ()


def test_a_processor_whose_gpu_is_not_on_the_bus_has_none(tmp_path: Path) -> None:
    """Switched off, or the box is a virtual machine: the bus is believed, not the name."""
    cpu = Cpu(arch="x86_64", vendor="Intel", model="Intel(R) Core(TM) i5-8250U CPU @ 1.60GHz")
    assert [gpu.name for gpu in gpus(tmp_path, cpu, Board())] == ["Intel HD Graphics"]
    tree(tmp_path, {"sys/bus/pci/devices/0000:00:00.0/class": "0x060000\n"})
    assert gpus(tmp_path, cpu, Board()) == ()


def test_a_virtual_machine_has_its_display_only(tmp_path: Path) -> None:
    """Whatever processor is below it; its memory is shared with no GPU."""
    tree(tmp_path, pci("0000:00:01.0", "1af4", "1050", "virtio-pci"))
    board = Board(name="Standard PC (Q35 + ICH9, 2009)", vendor="QEMU")
    cpu = Cpu(arch="aarch64", vendor="Apple")
    (gpu,) = gpus(tmp_path, cpu, board)
    assert (gpu.kind, gpu.is_worth_it) == ("virtual", False)
    assert unified_memory(cpu, board, (gpu,)) is False


def test_display_and_3d_of_a_raspberry_pi_are_one_gpu(tmp_path: Path) -> None:
    """DRM shows two cards; connectors are no cards."""
    tree(
        tmp_path,
        {
            "sys/class/drm/card0/device/uevent": "DRIVER=vc4-drm\nOF_COMPATIBLE_0=brcm,bcm2711-vc5\n",
            "sys/class/drm/card1/device/uevent": "DRIVER=v3d\nOF_COMPATIBLE_0=brcm,2711-v3d\n",
            "sys/class/drm/card0-HDMI-A-1/status": "connected\n",
        },
    )
    board = Board(name="Raspberry Pi 4 Model B Rev 1.4", compatible=("raspberrypi,4-model-b", "brcm,bcm2711"))
    (gpu,) = gpus(tmp_path, Cpu(arch="aarch64"), board)
    assert (gpu.name, gpu.driver, gpu.is_unified) == ("VideoCore VI (V3D 4.2)", "v3d", True)


def test_an_unknown_board_with_a_known_gpu_driver(tmp_path: Path) -> None:
    """The driver tells at least the family."""
    tree(tmp_path, {"sys/class/drm/card0/device/uevent": "DRIVER=panthor\n"})
    (gpu,) = gpus(tmp_path, Cpu(arch="aarch64"), Board())
    assert (gpu.name, gpu.vendor, gpu.is_unified, gpu.is_worth_it) == ("Mali", "arm", True, False)


def test_a_gb10_is_on_the_pci_bus_and_shares_the_ram(tmp_path: Path) -> None:
    """It is one GPU and no card, whether its driver has named it or not."""
    tree(tmp_path, pci("000f:01:00.0", "10de", "2e12", "nvidia"))
    for model in ("", "Model: NVIDIA GB10\n"):
        tree(tmp_path, {"proc/driver/nvidia/gpus/000f:01:00.0/information": model})
        (gpu,) = gpus(tmp_path, Cpu(arch="aarch64"), Board(name="NVIDIA_DGX_Spark", vendor="NVIDIA"))
        assert (gpu.kind, gpu.compute_capability, gpu.is_unified) == ("integrated", "12.1", True)


def test_the_drivers_folder_is_enough_in_a_container(tmp_path: Path) -> None:
    """Without a PCI bus to look at."""
    tree(tmp_path, {"proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: NVIDIA L4\n"})
    (gpu,) = gpus(tmp_path, NOBODY, Board())
    assert (gpu.name, gpu.driver, gpu.kind) == ("NVIDIA L4", "nvidia", "discrete")


def test_a_closed_device_node_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one that may not be opened."""
    tree(tmp_path, pci("0000:03:00.0", "1002", "744c", "amdgpu") | {"dev/dri/renderD128": ""})
    assert gpus(tmp_path, NOBODY, Board())[0].is_usable is None
    monkeypatch.setattr(os, "access", lambda node, mode: False)
    (gpu,) = gpus(tmp_path, NOBODY, Board())
    assert (gpu.is_usable, gpu.reason) == (False, "this user may not open /dev/dri/renderD128")
    assert device_nodes.closed(tmp_path, "nvidia") == ""


def test_pci_devices_are_named_by_the_distributions_table(tmp_path: Path) -> None:
    """Of the right vendor: numbers of devices repeat. Intel's generation is in the name."""
    table = (
        "# comment\n1001  Kolter\n\ta7a0  Not this one\n8086  Intel Corporation\n"
        "\t0007  82379AB\n\t\t1043 1234  Sub\n\ta7a0  Raptor Lake-P [Iris Xe Graphics]\n"
        "ffff  Illegal\n\t1234  Of another\n"
    )
    tree(tmp_path, {"usr/share/misc/pci.ids": table})
    assert pci_names.device_name(tmp_path, 0x8086, 0xA7A0) == "Raptor Lake-P [Iris Xe Graphics]"
    assert pci_names.device_name(tmp_path, 0x8086, 0x1234) == ""
    assert pci_names.device_name(tmp_path, 0x1002, 0xA7A0) == ""
    tree(tmp_path, pci("0000:00:02.0", "8086", "a7a0", "i915"))
    assert gpus(tmp_path, NOBODY, Board())[0].is_worth_it


def test_without_that_table_the_processors_name_tells(tmp_path: Path) -> None:
    """A small system has no table; its GPU is the same."""
    tree(tmp_path, pci("0000:00:02.0", "8086", "a7a0", "i915"))
    cpu = Cpu(arch="x86_64", vendor="Intel", model="13th Gen Intel(R) Core(TM) i7-1360P")
    (gpu,) = gpus(tmp_path, cpu, Board())
    assert (gpu.name, gpu.driver, gpu.is_worth_it) == ("Intel Iris Xe Graphics", "i915", True)
    assert gpus(tmp_path, NOBODY, Board())[0].name == "Intel GPU 8086:a7a0"


@pytest.mark.parametrize(
    ("content"),
    ["", "\0", "0x", "garbage\n", "0x0300zz", "é"],
    ids=["none", "nul", "0x", "word", "mixed", "latin"],
)
def test_damaged_files_bring_no_gpu(tmp_path: Path, content: str) -> None:
    """And no exception."""
    tree(tmp_path, pci("0000:00:02.0", "8086", "a7a0", "i915"))
    tree(tmp_path, dict.fromkeys(pci("0000:00:02.0", "8086", "a7a0"), content))
    assert gpus(tmp_path, NOBODY, Board()) == ()


# ---- what comes with a chip ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("compatible", "name", "capability"),
    [
        ("nvidia,tegra124", "NVIDIA Kepler GK20A", "3.2"),
        ("nvidia,tegra210", "NVIDIA Maxwell GM20B", "5.3"),
        ("nvidia,tegra186", "NVIDIA Pascal GP10B", "6.2"),
        ("nvidia,tegra194", "NVIDIA Volta GV11B", "7.2"),
        ("nvidia,tegra234", "NVIDIA Ampere GA10B", "8.7"),
        ("nvidia,tegra264", "NVIDIA Thor (Blackwell)", "11.0"),
        ("brcm,bcm2712", "VideoCore VII (V3D 7.1)", ""),
        ("brcm,bcm2837", "VideoCore IV", ""),
        ("rockchip,rk3588s", "Mali-G610", ""),
        ("rockchip,rk3566", "Mali-G52", ""),
        ("rockchip,rk3399", "Mali-T860", ""),
        ("qcom,qcs6490", "Adreno 643", ""),
        ("starfive,jh7110", "PowerVR IMG BXE-4-32", ""),
        ("apple,t8103", "Apple AGX", ""),
    ],
)
def test_the_device_tree_names_the_gpu(tmp_path: Path, compatible: str, name: str, capability: str) -> None:
    """A third party's board has the chip's entry behind its own."""
    (gpu,) = gpus(tmp_path, Cpu(arch="aarch64"), Board(name="A board", compatible=("acme,box", compatible)))
    assert (gpu.name, gpu.compute_capability, gpu.is_unified) == (name, capability, True)


@pytest.mark.parametrize(
    ("model", "graphics"),
    [
        ("Intel(R) Atom(TM) CPU N270   @ 1.60GHz", "Intel GMA 950"),
        ("Intel(R) Core(TM) i5-L16G7 CPU @ 1.40GHz", "Intel UHD Graphics (Gen11)"),
        ("13th Gen Intel(R) Core(TM) i7-1360P", "Intel Iris Xe Graphics"),
        ("12th Gen Intel(R) Core(TM) i7-12700", "Intel UHD Graphics"),
        ("Intel(R) N100", "Intel UHD Graphics"),
        ("Intel(R) Core(TM) Ultra 7 155H", "Intel Arc Graphics"),
        ("AMD RYZEN AI MAX+ 395 w/ Radeon 8060S", "AMD Radeon 8060S"),
        ("AMD Ryzen 7 7700X 8-Core Processor", "AMD Radeon Graphics (Raphael)"),
        ("12th Gen Intel(R) Core(TM) i5-12400F", None),
        ("Intel(R) Core(TM) i9-9900KF CPU @ 3.60GHz", None),
        ("Intel(R) Core(TM) i9-10980XE CPU @ 3.00GHz", None),
        ("Intel(R) Core(TM) i7 CPU         920  @ 2.67GHz", None),
        ("Intel(R) Xeon(R) Silver 4108 CPU @ 1.80GHz", None),
        ("AMD Ryzen 5 5600X 6-Core Processor", None),
        ("AMD Ryzen 5 7500F 6-Core Processor", None),
        ("AMD EPYC 7763 64-Core Processor", None),
    ],
)
def test_a_processors_name_tells_its_graphics(model: str, graphics: str | None) -> None:
    """F, X and servers have none, and then no RAM is shared."""
    cpu = Cpu(arch="x86_64", vendor="Intel" if "Intel" in model else "AMD", model=model)
    found = cpu_graphics.integrated(cpu)
    assert (found.name if found else None) == graphics
    assert unified_memory(cpu, Board(), (found,) if found else ()) is (graphics is not None)


def test_two_chips_have_the_same_cores_and_one_has_a_gpu(tmp_path: Path) -> None:
    """The device tree decides, where there is one."""
    cpu = Cpu(arch="riscv64", microarchitecture="SiFive U74", cpus=4)
    assert [gpu.vendor for gpu in gpus(tmp_path, cpu, Board())] == ["imagination"]
    assert gpus(tmp_path, cpu, Board(compatible=("sifive,hifive-unmatched-a00", "sifive,fu740-c000"))) == ()


def test_a_mac_has_metal_and_the_same_chip_under_linux_has_not(tmp_path: Path) -> None:
    """macOS names the chip and has no device tree."""
    mac = Cpu(arch="aarch64", vendor="Apple", model="Apple M1 Pro")
    (metal,) = gpus(tmp_path, mac, Board(name="MacBookPro18,3", vendor="Apple"))
    assert (metal.api, metal.is_worth_it, metal.is_unified) == ("metal", True, True)
    (agx,) = gpus(
        tmp_path, Cpu(arch="aarch64", vendor="Apple"), Board(compatible=("apple,j313", "apple,t8103"))
    )
    assert (agx.api, agx.is_worth_it, agx.is_unified) == ("vulkan", False, True)


# ---- recorded boxes ------------------------------------------------------------------------------


def rows() -> list[tuple[str, str, str]]:
    """File, GPU and `yes` or `no` of each row of the index."""
    try:
        lines = (DUMPS / "INDEX.md").read_text().splitlines()
    except OSError:
        return []
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return [(c[1].strip("`"), c[5], c[6].split()[0]) for c in cells if len(c) == 9 and c[0].isdecimal()]


def recorded(file: Path) -> tuple[Cpu, Board]:
    """Only what these tests need of cpuinfo or lscpu, and of the files beside it."""
    text = file.read_text(errors="replace")
    fields = dict(re.findall(r"^([\w ]+?)\s*: *(.*)$", text, re.MULTILINE))
    parts = re.findall(r"^CPU part\s*: *(\w+)", text, re.MULTILINE)
    names = [PARTS.get(part, "") for part in parts] or re.findall(r"^Model name:\s*(.+)$", text, re.MULTILINE)
    names = names or [fields.get("uarch", "").replace("sifive,u74-mc", "SiFive U74")]
    cpus = int(fields.get("CPU(s)", "0")) or len(re.findall(r"^processor", text, re.MULTILINE)) or 1
    folder = file.parent
    dmi = [text_of(folder / f"../sys/class/dmi/id/{name}") for name in ("product_name", "sys_vendor")]
    arch = fields.get("Architecture") or folder.parent.name.split("-")[0].replace("rv64", "riscv64")
    implementer = fields.get("CPU implementer", "")
    is_x86 = "vendor_id" in fields or "GenuineIntel" in text or "AuthenticAMD" in text
    known = (name for name in ("loongarch64", "ppc64", "riscv64") if name[:5] in arch)
    cpu = Cpu(
        arch="x86_64" if is_x86 else next(known, "aarch64"),
        vendor="Apple" if implementer == "0x61" else fields.get("vendor_id", fields.get("Vendor ID", "")),
        model=fields.get("model name") or fields.get("Model name") or fields.get("Model Name") or "",
        microarchitecture=names[0],
        cpus=cpus,
        clusters=tuple(Cluster(microarchitecture=n, cpus=names.count(n)) for n in dict.fromkeys(names)),
    )  # fmt: skip
    name = text_of(folder / "model.txt") or fields.get("Model") or fields.get("Hardware") or dmi[0]
    compatible = text_of(folder / "dt_compatible.txt").split()
    is_board = not re.fullmatch(r"\d+|0x\w+", name)
    return cpu, Board(name=name if is_board else "", vendor=dmi[1], compatible=tuple(compatible))


def text_of(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


@pytest.mark.skipif(not rows(), reason="the recorded boxes are not beside the project")
@pytest.mark.parametrize(("file", "gpu", "unified"), rows(), ids=[row[0] for row in rows()])
def test_recorded_boxes_share_their_ram_or_not(tmp_path: Path, file: str, gpu: str, unified: str) -> None:
    """As the index says; and a GPU that is named here is the one named there."""
    cpu, board = recorded(DUMPS / file)
    found = gpus(tmp_path, cpu, board)
    assert unified_memory(cpu, board, found) is (unified == "yes")
    if gpu.startswith(("none", "NEC", "virtio")):
        assert found == ()
    for one in found:
        words = set(re.findall(r"[\w.-]+", one.name.lower()))
        assert words & set(re.findall(r"[\w.-]+", gpu.lower())), one.name


# ---- what drivers add ----------------------------------------------------------------------------


def test_a_drivers_answer_completes_what_the_kernel_shows() -> None:
    """CUDA's before Vulkan's; each GPU once."""
    found = (
        Gpu(name="Intel GPU 8086:a788", vendor="intel", api="vulkan", kind="integrated", is_unified=True),
        Gpu(name="NVIDIA GPU 10de:2860", vendor="nvidia", api="cuda", kind="discrete", driver="nvidia 580"),
    )
    intel = Gpu(name="Intel(R) Graphics (RPL-S)", vendor="intel", api="vulkan", kind="integrated")
    name = "NVIDIA GeForce RTX 4070"
    card = Gpu(name=name, vendor="nvidia", api="cuda", kind="discrete", total_bytes=8 * GIB, is_usable=True)
    double = Gpu(name="NVIDIA GeForce RTX 4070", vendor="nvidia", api="vulkan", kind="discrete")
    software = Gpu(name="llvmpipe", vendor="mesa", api="vulkan", kind="software", is_usable=True)
    merged = confirmed(found, Asked((card, intel, double, software)))
    assert [gpu.name for gpu in merged] == [intel.name, card.name, "llvmpipe"]
    assert merged[0].is_unified
    assert (merged[1].driver, merged[1].total_bytes, merged[1].is_worth_it) == ("nvidia 580", 8 * GIB, True)
    assert not merged[2].is_worth_it


def test_a_gpu_no_driver_speaks_for_cannot_be_used() -> None:
    """Unless asking went wrong: then nothing is known."""
    found = (Gpu(name="Radeon RX 7900", vendor="amd", api="vulkan", kind="discrete", driver="amdgpu"),)
    (silent,) = confirmed(found, Asked())
    assert (silent.is_usable, silent.reason) == (False, "no vulkan driver answers for it")
    assert silent.is_worth_it
    (unknown,) = confirmed(found, Asked(reason="the Vulkan driver crashed"))
    assert unknown.is_usable is None


def test_a_drivers_gpu_that_the_kernel_does_not_show_is_added() -> None:
    """Windows' Linux has no PCI display, but libcuda."""
    card = Gpu(name="NVIDIA GeForce RTX 3070", vendor="nvidia", api="cuda", kind="discrete")
    assert [gpu.name for gpu in confirmed((), Asked((card,)))] == [card.name]


NAMES = st.sampled_from(
    ["", "Cortex-A76", "Denver 2", "SiFive U74", "Intel(R) Core(TM) i5", "Apple M1", "AMD"]
)


@settings(deadline=None)  # each test has its own bound
@given(st.text() | NAMES, st.text() | NAMES, st.text() | NAMES, st.integers(1, 300), st.lists(st.text()))
def test_no_name_is_too_odd(model: str, core: str, board: str, cpus: int, compatible: list[str]) -> None:
    """Inference raises nothing, and where it finds a GPU on the chip the RAM is shared."""
    cpu = Cpu(arch="aarch64", vendor=core, model=model, microarchitecture=core, cpus=cpus)
    place = Board(name=board, compatible=tuple(compatible))
    found = gpus(Path("/nowhere"), cpu, place)
    assert unified_memory(cpu, place, found) in ((True,) if found else (True, False, None))


@pytest.mark.parametrize(
    ("compatible", "name"),
    [
        ("xunlong,orangepi-zero3 allwinner,sun50i-h618", "Mali-G31"),
        ("pine64,pine-h64 allwinner,sun50i-h6", "Mali-T720"),
        ("beagle,am625-beagleplay ti,am625", "PowerVR AXE-1-16M"),
        ("ti,am335x-bone-black ti,am335x-bone ti,am33xx", "PowerVR SGX530"),
        ("fsl,imx8mp-evk fsl,imx8mp", "Vivante GC7000"),
        ("hardkernel,odroid-n2-plus amlogic,s922x amlogic,g12b", "Mali-G52"),
        ("hardkernel,odroid-c4 amlogic,sm1", "Mali-G31"),
        ("pine64,rock64 rockchip,rk3328", "Mali-450"),
        ("radxa,rock-4d rockchip,rk3576", "Mali-G52"),
        ("lenovo,thinkpad-t14s qcom,x1e78100 qcom,x1e80100", "Adreno X1-85"),
        ("thundercomm,db845c qcom,sdm845", "Adreno 630"),
        ("radxa,orion-o6 cix,sky1", "Immortalis-G720"),
        ("sipeed,lichee-pi-4a thead,th1520", "PowerVR BXM-4-64"),
        ("spacemit,k1-x", "PowerVR BXE-2-32"),
    ],
)
def test_small_boards_have_their_chips_gpu(tmp_path: Path, compatible: str, name: str) -> None:
    """It shares the RAM and is not worth it; a chip that has none (i.MX93) gets none."""
    (gpu,) = gpus(tmp_path, NOBODY, Board(compatible=tuple(compatible.split())))
    assert (gpu.name, gpu.is_unified, gpu.is_worth_it) == (name, True, False)
    assert gpus(tmp_path, NOBODY, Board(compatible=("fsl,imx93-11x11-evk", "fsl,imx93"))) == ()


@pytest.mark.parametrize(
    ("core", "cpus", "is_unified"),
    [
        ("Cortex-A78AE", 12, True),
        ("Cortex-A72", 16, False),
        ("Neoverse-N1", 4, False),
        ("Azure Cobalt 100", 4, False),
    ],
)
def test_twelve_cores_of_a_jetson_are_no_servers(core: str, cpus: int, is_unified: bool) -> None:
    """An AGX Orin's cpuinfo alone; a Graviton 1 has sixteen."""
    cpu = Cpu(arch="aarch64", microarchitecture=core, cpus=cpus, cores=cpus)
    assert unified_memory(cpu, Board(), ()) is is_unified


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("Intel(R) Core(TM) Ultra 7 265KF", None),
        ("Intel(R) Core(TM) Ultra 7 265K", "Intel Arc Graphics"),
        ("AMD Custom APU 0405", "AMD Radeon Graphics (Van Gogh)"),
        ("AMD GX-412TC SOC", None),
    ],
)
def test_graphics_in_newer_processors(model: str, name: str | None) -> None:
    """An F has none; a Steam Deck's name does not say that it has."""
    found = cpu_graphics.integrated(Cpu(arch="x86_64", model=model))
    assert (found.name if found else None) == name
