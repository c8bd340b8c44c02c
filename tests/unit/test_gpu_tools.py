"""What vulkaninfo and nvidia-smi print, recorded and hand-written; and which GPUs are worth computing on."""

import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.doctor.backends import target_of
from agent.hardware.gpu import nvidia_smi, vulkaninfo
from agent.hardware.gpu.nvidia_names import capability_of
from agent.hardware.gpu.worth import capability, judged, verdict
from agent.hardware.machine import Gpu
from agent.hardware.probe import probe

DUMPS = Path(__file__).parents[3] / "shared" / "devices"
MIB = 1 << 20

OLD_VULKANINFO = """\
Device Properties and Extensions:
=================================
GPU0:
VkPhysicalDeviceProperties:
---------------------------
\tapiVersion     = 4194459 (1.0.155)
\tdriverVersion  = 83898373 (0x5003005)
\tvendorID       = 5348 (0x14e4)
\tdeviceType     = PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU
\tdeviceName     = V3D 4.2
VkPhysicalDeviceDriverProperties:
\tdriverName     = V3DV Mesa
\tdriverInfo     = Mesa 22.3.6
VkPhysicalDeviceVulkan12Properties:
\tdriverName     = V3DV Mesa
\tdriverInfo     = Mesa 22.3.6

GPU1:
\tdeviceType     = CPU
\tdeviceName     = llvmpipe (LLVM 15.0.6, 128 bits)
"""
LIST = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-0)
  MIG 3g.40gb     Device  0: (UUID: MIG-0)
GPU 1: NVIDIA L4 (UUID: GPU-1)
"""
CSV = """\
index, name, driver_version, memory.total [MiB], memory.free [MiB], compute_cap
0, NVIDIA GeForce RTX 3070, 581.57, 8192 MiB, 7000 MiB, 8.6
1, Orin (nvgpu), 540.5.0, [N/A], [N/A], [N/A]
"""
OLD_TABLE = """\
| NVIDIA-SMI 418.56       Driver Version: 418.56       CUDA Version: 10.1     |
|   0  GeForce GTX 1080    Off  | 00000000:01:00.0  On |                  N/A |
| 27%   38C    P8     8W / 180W |    342MiB /  8116MiB |      1%      Default |
|    0      1234      G   /usr/lib/xorg/Xorg                           100MiB |
"""


def dump(name: str) -> str:
    path = DUMPS / name
    if not path.exists():
        pytest.skip("the recorded boxes are not beside the project")
    return path.read_text()


def section(text: str, command: str) -> str:
    """What the first such command printed in a recorded session."""
    match = re.search(rf"^# \$ {command}\n#+\n(.*?)^####", text, re.MULTILINE | re.DOTALL)
    assert match
    return match.group(1)


# ---- vulkaninfo ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("adreno650_turnip_mesa25.0.7", [("Turnip Adreno (TM) 650", "qualcomm", "integrated", False)]),
        ("adreno840_turnip_mesa26.2-devel", [("Adreno (TM) 840", "qualcomm", "integrated", False)]),
        ("cix-p1_mali-g720_arm-proprietary", [("Mali-G720-Immortalis", "arm", "integrated", False)]),
        (
            "intel-rpl-s+rtx4070-laptop",
            [
                ("Intel(R) Graphics (RPL-S)", "intel", "integrated", False),
                ("NVIDIA GeForce RTX 4070 Laptop GPU", "nvidia", "discrete", True),
            ],
        ),
        (
            "pi4_v3d-4.2+llvmpipe_mesa20.3.5",
            [
                ("V3D 4.2", "broadcom", "integrated", False),
                ("llvmpipe (LLVM 11.0.1, 128 bits)", "mesa", "software", False),
            ],
        ),
        ("pixel6a_mali-g78_arm-proprietary", [("Mali-G78", "arm", "integrated", False)]),
        ("rk3588_mali-g610_panvk_llamacpp-banner", [("Mali-G610", "arm", "integrated", False)]),
        (
            "rog-ally_z1-extreme_radv+llvmpipe_mesa25.2.8",
            [
                ("AMD Ryzen Z1 Extreme (RADV PHOENIX)", "amd", "integrated", True),
                ("llvmpipe (LLVM 20.1.2, 256 bits)", "mesa", "software", False),
            ],
        ),
        (
            "windows_amd-igpu+rtx3070",
            [
                ("AMD Radeon(TM) Graphics", "amd", "integrated", True),
                ("NVIDIA GeForce RTX 3070", "nvidia", "discrete", True),
            ],
        ),
    ],
)
def test_recorded_vulkaninfo(file: str, expected: list[tuple[str, str, str, bool]]) -> None:
    """Each device with its vendor, kind and whether it is worth it; what is part of a chip shares the RAM."""
    found = [judged(gpu) for gpu in vulkaninfo.parse(dump(f"excerpts/vulkaninfo/{file}.txt"))]
    assert [(gpu.name, gpu.vendor, gpu.kind, gpu.is_worth_it) for gpu in found] == expected
    assert all(gpu.is_unified is (gpu.kind == "integrated") for gpu in found)


def test_every_recorded_vulkaninfo_is_checked() -> None:
    """A new one needs a line above."""
    dump("INDEX.md")
    assert len(list((DUMPS / "excerpts/vulkaninfo").glob("*.txt"))) == 9


def test_the_long_output_of_an_old_vulkaninfo() -> None:
    """Numbers in decimal, types without their prefix, and a driver that is named twice."""
    pi, software = vulkaninfo.parse(OLD_VULKANINFO)
    assert (pi.name, pi.vendor, pi.driver) == ("V3D 4.2", "broadcom", "V3DV Mesa Mesa 22.3.6")
    assert software.kind == "software"


def test_devices_without_headings_are_told_apart() -> None:
    """As somebody pastes them: the name may come last."""
    text = "vendorID = 0x5143\ndeviceName = Adreno (TM) 650\nvendorID = 0x1002\ndeviceName = Radeon\n"
    assert [(gpu.name, gpu.vendor) for gpu in vulkaninfo.parse(text)] == [
        ("Adreno (TM) 650", "qualcomm"),
        ("Radeon", "amd"),
    ]


def test_the_list_of_llama_cpp() -> None:
    """The driver stands in the last brackets; `uma` says whose memory it is."""
    text = "ggml_vulkan: 0 = AMD Radeon RX 6800 XT (RADV NAVI21) (radv) | uma: 0 | fp16: 1 | warp size: 64"
    (gpu,) = vulkaninfo.parse(f"ggml_vulkan: Found 1 Vulkan devices:\n{text}\n")
    assert (gpu.name, gpu.driver) == ("AMD Radeon RX 6800 XT (RADV NAVI21)", "radv")
    assert (gpu.vendor, gpu.kind, gpu.is_unified) == ("amd", "discrete", False)


# ---- nvidia-smi ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "name", "driver", "capability"),
    [
        ("gb10_dgx-spark_580.95.05", "NVIDIA GB10", "nvidia 580.95.05", "12.1"),
        ("jetson-orin-nano-8gb_540.5.0", "Orin (nvgpu)", "nvidia 540.5.0", "8.7"),
    ],
)
def test_a_chip_has_no_memory_to_report(file: str, name: str, driver: str, capability: str) -> None:
    """ "Not Supported" is no size, and the RAM is shared."""
    (gpu,) = nvidia_smi.parse(dump(f"excerpts/nvidia-smi/{file}.txt"))
    assert (gpu.name, gpu.driver, gpu.compute_capability) == (name, driver, capability)
    assert (gpu.total_bytes, gpu.free_bytes, gpu.is_unified) == (None, None, True)
    assert judged(gpu).is_worth_it


@pytest.mark.parametrize(
    ("file", "name", "used", "total"),
    [
        ("linux-x86_64__nvidia-geforce-rtx-2080-super__595.71.05", "NVIDIA GeForce RTX 2080 ...", 214, 8192),
        ("linux-x86_64__nvidia-geforce-rtx-4080-super__595.71.05", "NVIDIA GeForce RTX 4080 ...", 596, 16376),
        ("linux-x86_64__nvidia-h100-mig__590.48.01", "NVIDIA H100 80GB HBM3", 59, 81559),
        ("linux-x86_64__nvidia-h200__590.48.01", "NVIDIA H200", 0, 143771),
        ("windows-x86_64__nvidia-geforce-rtx-2080-super__591.86", "NVIDIA GeForce RTX 2080 ...", 702, 8192),
    ],
)
def test_the_table_of_a_recorded_card(file: str, name: str, used: int, total: int) -> None:
    """Its name, cut off by nvidia-smi itself, and its memory; slices of a card (MIG) are no cards."""
    table = section(dump(f"nvidia-smi/{file}.txt"), r"nvidia-smi *")
    (gpu,) = nvidia_smi.parse(table)
    assert (gpu.name, gpu.kind, gpu.is_unified) == (name, "discrete", False)
    assert gpu.total_bytes == total * MIB
    assert gpu.free_bytes == (total - used) * MIB


@pytest.mark.parametrize(
    ("file", "name", "capability"),
    [
        ("linux-x86_64__nvidia-geforce-rtx-2080-super__595.71.05", "NVIDIA GeForce RTX 2080 SUPER", "7.5"),
        ("linux-x86_64__nvidia-h200__590.48.01", "NVIDIA H200", "9.0"),
        ("windows-x86_64__nvidia-geforce-rtx-2080-super__591.86", "NVIDIA GeForce RTX 2080 SUPER", "7.5"),
    ],
)
def test_the_recorded_answer_to_a_query_for_everything(file: str, name: str, capability: str) -> None:
    """Two hundred columns, of which five count."""
    (gpu,) = nvidia_smi.parse(section(dump(f"nvidia-smi/{file}.txt"), r"nvidia-smi --query-gpu=[^\n]*"))
    assert (gpu.name, gpu.compute_capability, gpu.kind) == (name, capability, "discrete")
    assert gpu.driver == f"nvidia {file.split('__')[2]}"
    assert gpu.total_bytes
    assert gpu.free_bytes


def test_an_old_table() -> None:
    """Its columns are narrower, and its processes are no GPUs."""
    (gpu,) = nvidia_smi.parse(OLD_TABLE)
    assert (gpu.name, gpu.total_bytes, gpu.driver) == ("GeForce GTX 1080", 8116 * MIB, "nvidia 418.56")


def test_the_list_of_nvidia_smi() -> None:
    """-L has names only."""
    assert [gpu.name for gpu in nvidia_smi.parse(LIST)] == ["NVIDIA H100 80GB HBM3", "NVIDIA L4"]


def test_the_answer_to_a_query() -> None:
    """With units or without; what is not supported stands in brackets."""
    card, chip = nvidia_smi.parse(CSV)
    assert (card.compute_capability, card.driver) == ("8.6", "nvidia 581.57")
    assert (card.total_bytes, card.free_bytes) == (8192 * MIB, 7000 * MIB)
    assert (chip.total_bytes, chip.compute_capability, chip.is_unified) == (None, "8.7", True)
    assert nvidia_smi.parse("name, memory.total\nNVIDIA L4, 23034\n")[0].total_bytes == 23034 * MIB


PIECES = st.sampled_from(
    [
        OLD_VULKANINFO,
        LIST,
        CSV,
        OLD_TABLE,
        "|",
        "GPU0:\n",
        "deviceName = ",
        "ggml_vulkan: 0 = ",
        "\n",
        "=",
        "name,",
    ]
)


@settings(deadline=None)  # each test has its own bound
@given(st.lists(PIECES | st.text(), max_size=8).map("".join))
@example("|   0  a" + " " * 19_000)
@example("|   0  " + "a  " * 6000)
@example("ggml_vulkan: 0 = ()")
@example("vendorID = ²\ndeviceName = x")
@example("name, memory.total\nx, ²")
def test_any_text_is_read_to_its_end(text: str) -> None:
    """Whatever a tool of tomorrow prints: named GPUs or none, and no exception."""
    for gpu in (*vulkaninfo.parse(text), *nvidia_smi.parse(text)):
        assert gpu.name is not None
        assert judged(gpu).reason


# ---- worth it ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "is_worth_it", "why"),
    [
        (
            Gpu(name="llvmpipe (LLVM 15)", kind="integrated", vendor="intel"),
            False,
            "the CPU under another name",
        ),
        (Gpu(name="SwiftShader Device (Subzero)", vendor="google"), False, "the CPU under another name"),
        (Gpu(name="virtual display", kind="virtual"), False, "computes nothing"),
        (Gpu(name="V3D 7.1", vendor="broadcom", kind="integrated"), False, "slower than the CPU"),
        (Gpu(name="Mali-G610", vendor="arm", driver="panvk"), False, "slower on a Mali"),
        (Gpu(name="Intel HD Graphics 400", vendor="intel", kind="integrated"), False, "execution units"),
        (Gpu(name="Intel GMA 950", vendor="intel", kind="integrated"), False, "execution units"),
        (
            Gpu(name="Intel(R) Iris(R) Xe Graphics (TGL GT2)", vendor="intel", kind="integrated"),
            True,
            "prefills",
        ),
        (Gpu(name="Intel(R) Arc(TM) Graphics (MTL)", vendor="intel", kind="integrated"), True, "prefills"),
        (Gpu(name="Intel(R) Arc(TM) A770", vendor="intel", kind="discrete"), True, "its own memory"),
        (Gpu(name="Kepler GK20A", vendor="nvidia", compute_capability="3.2"), False, "too old"),
        (Gpu(name="GK208 [GeForce GT 730]", vendor="nvidia", kind="discrete"), False, "too old"),
        (Gpu(name="Maxwell GM20B", vendor="nvidia", compute_capability="5.3"), True, "CUDA"),
        (Gpu(name="GB10", vendor="nvidia", compute_capability="12.1"), True, "CUDA"),
        (Gpu(name="GeForce RTX 4070", vendor="nvidia"), True, "CUDA"),
        (Gpu(name="Radeon RX 7900 (RADV NAVI31)", vendor="amd", kind="discrete"), True, "its own memory"),
        (Gpu(name="AMD Radeon 8060S (RADV GFX1151)", vendor="amd", kind="integrated"), True, "prefills"),
        (Gpu(name="AMD Ryzen 7 7700X (RADV RAPHAEL_MENDOCINO)", vendor="amd"), False, "two compute units"),
        (Gpu(name="AMD Radeon HD 6310", vendor="amd", kind="integrated"), False, "of this age"),
        (Gpu(name="Apple M1", vendor="apple", api="metal"), True, "Metal"),
        (Gpu(name="Apple AGX", vendor="apple", api="vulkan"), False, "has to be measured"),
        (Gpu(name="Turnip Adreno (TM) 650", vendor="qualcomm"), False, "has to be measured"),
        (Gpu(name="PowerVR B-Series BXE-4-32", vendor="imagination"), False, "not fit for compute"),
        (Gpu(name="Something", kind="discrete", is_usable=True), True, "its own memory"),
        (Gpu(name="Something"), False, "nothing is known"),
    ],
    ids=lambda value: value.name if isinstance(value, Gpu) else None,
)
def test_what_is_worth_it(gpu: Gpu, is_worth_it: bool, why: str) -> None:
    """And one sentence why."""
    found = verdict(gpu)
    assert found.is_worth_it is is_worth_it
    assert why in found.reason


def test_why_a_gpu_cannot_be_used_is_said_before_why_it_would_be_worth_it() -> None:
    """The person has to mend that first."""
    gpu = judged(Gpu(name="Radeon RX", vendor="amd", kind="discrete", is_usable=False, reason="it is closed"))
    assert (gpu.is_worth_it, gpu.reason) == (True, "it is closed")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NVIDIA GeForce GT 710", (3, 0)),
        ("GeForce GTX 680", (3, 0)),
        ("NVIDIA GeForce GTX 780 Ti", (3, 0)),
        ("Tesla K80", (3, 0)),
        ("GK208B [GeForce GT 730]", (3, 0)),
        ("GeForce GTX 580", (2, 0)),
        ("NVIDIA GeForce GTX 750 Ti", (5, 0)),
        ("Quadro K620", (5, 0)),
        ("GeForce 940MX", (5, 0)),
        ("NVIDIA GeForce GTX 970", (5, 0)),
        ("NVIDIA GeForce GTX TITAN X", (5, 0)),
        ("NVIDIA GeForce GTX 1050 Ti", (6, 1)),
        ("NVIDIA GeForce GT 1030", (6, 1)),
        ("Tesla P40", (6, 1)),
        ("Quadro P2000", (6, 1)),
        ("Tesla V100-SXM2-16GB", (7, 0)),
        ("NVIDIA GeForce GTX 1650", None),
        ("NVIDIA GeForce RTX 2080 ...", None),
        ("Tesla T4", None),
        ("NVIDIA RTX A2000", None),
        ("NVIDIA A100-SXM4-80GB", None),
        ("NVIDIA RTX 4000 Ada Generation", None),
        ("Quadro RTX 4000", None),
        ("NVIDIA GeForce RTX 5090", None),
        ("NVIDIA GH200 480GB", None),
        ("Orin (nvgpu)", None),
    ],
)
def test_old_cards_are_known_by_their_names(name: str, found: tuple[int, int] | None) -> None:
    """The table of nvidia-smi has no capability: without it a Kepler counted as worth a CUDA build."""
    assert capability_of(name) == found


def test_a_card_of_an_old_name_is_not_worth_it_and_a_middle_aged_one_wants_vulkan() -> None:
    """A capability that is told goes before the name."""
    table = OLD_TABLE.replace("GeForce GTX 1080", "GeForce GT 710  ")
    (kepler,) = map(judged, nvidia_smi.parse(table))
    assert (kepler.name, kepler.is_worth_it) == ("GeForce GT 710", False)
    assert "5.0, and this GPU has 3.x" in kepler.reason
    (pascal,) = map(judged, nvidia_smi.parse(OLD_TABLE))
    assert (pascal.is_worth_it, target_of(pascal)) == (True, "vulkan")
    assert capability(Gpu(name="GeForce GT 710", vendor="nvidia", compute_capability="8.6")) == (8, 6)


LOG = """\
==============NVSMI LOG==============

Timestamp                                 : Thu Jun 12 10:11:12 2025
Driver Version                            : 535.183.01
CUDA Version                              : 12.2

Attached GPUs                             : 2
GPU 00000000:01:00.0
    Product Name                          : NVIDIA GeForce RTX 3060
    Product Brand                         : GeForce
    FB Memory Usage
        Total                             : 12288 MiB
        Reserved                          : 200 MiB
        Free                              : 12000 MiB
    BAR1 Memory Usage
        Total                             : 256 MiB
GPU 00000000:02:00.0
    Product Name                          : Orin (nvgpu)
    FB Memory Usage
        Total                             : N/A
"""
XML = """\
<?xml version="1.0" ?>
<nvidia_smi_log>
\t<driver_version>535.183.01</driver_version>
\t<gpu id="00000000:01:00.0">
\t\t<product_name>NVIDIA GeForce RTX 3060</product_name>
\t\t<fb_memory_usage>
\t\t\t<total>12288 MiB</total>
\t\t\t<free>12000 MiB</free>
\t\t</fb_memory_usage>
\t\t<bar1_memory_usage>
\t\t\t<total>256 MiB</total>
\t\t</bar1_memory_usage>
\t</gpu>
</nvidia_smi_log>
"""


@pytest.mark.parametrize("text", [LOG, XML], ids=["text", "xml"])
def test_the_log_of_nvidia_smi(text: str) -> None:
    """The memory of the card, not the window to it."""
    first, *others = nvidia_smi.parse(text)
    assert (first.name, first.driver) == ("NVIDIA GeForce RTX 3060", "nvidia 535.183.01")
    assert (first.total_bytes, first.free_bytes) == (12288 * MIB, 12000 * MIB)
    assert [(gpu.name, gpu.is_unified, gpu.total_bytes) for gpu in others] in (
        [],
        [("Orin (nvgpu)", True, None)],
    )


def test_a_card_that_fell_off_its_bus_is_none() -> None:
    """nvidia-smi writes ERR! for its name."""
    lost = "|   1  ERR!                 Off  | 00000000:08:00.0 Off |                 ERR! |\n"
    assert [gpu.name for gpu in nvidia_smi.parse(OLD_TABLE + lost)] == ["GeForce GTX 1080"]


@pytest.mark.parametrize(
    "text",
    [
        LIST,
        LOG,
        XML,
        OLD_TABLE,
        "name, memory.total [MiB], driver_version\nNVIDIA GeForce RTX 3060, 1 MiB, 5\n",
    ],
)
def test_every_form_is_known_in_a_recording(tmp_path: Path, text: str) -> None:
    """Only the table was."""
    path = tmp_path / "nvidia-smi.txt"
    path.write_text(text)
    assert probe(path).gpus


def test_a_list_of_cpus_is_no_log_of_nvidia_smi() -> None:
    """Its lines have the same form."""
    assert nvidia_smi.parse("Architecture: x86_64\nTotal : 4\nModel name: x\n") == ()
