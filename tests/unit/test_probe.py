"""A box through the one door: live, as a tree, as loose texts, as one file, and as junk."""

import contextlib
import os
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import ProbeError
from agent.hardware import kernel, recording
from agent.hardware.cpu import cpuinfo, lscpu, sysctl
from agent.hardware.diagnosis import diagnose
from agent.hardware.machine import Heat, Machine, Power, Storage
from agent.hardware.probe import probe
from agent.hardware.ram import parse_free, parse_meminfo
from agent.hardware.storage import READ_BYTES_S, storage
from tests.support.box import arm_cpuinfo, write, x86_cpuinfo

GIB = 1 << 30
DMI = "sys/class/dmi/id"
BATTERY = {"type": "Battery"}
MEMINFO = "MemTotal: 1048576 kB\nMemFree: 1 kB\nMemAvailable: 524288 kB\nSwapTotal: 0 kB\n"
PI = {
    "proc/cpuinfo": arm_cpuinfo(0xD08, 0xD08, 0xD08, 0xD08, features="fp asimd crc32 cpuid"),
    "proc/meminfo": MEMINFO,
    "proc/version": "Linux version 6.1.21-v8+ (dom@box) (gcc-8)\n",
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "proc/device-tree/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0",
    "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
}


# ---- where it is read from -----------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc of this box")
def test_this_box() -> None:
    """It has an architecture, CPUs and memory; no library of llama.cpp is loaded for that."""
    machine = probe()
    assert machine.cpu.arch
    assert machine.cpu.cpus >= machine.cpu.cores >= 1
    assert machine.memory.total_bytes
    assert machine.kernel == os.uname().release


def test_a_tree(tmp_path: Path) -> None:
    """What a tar of /proc, /sys and /etc holds."""
    machine = probe(write(tmp_path, PI))
    assert (machine.cpu.arch, machine.cpu.cpus, machine.cpu.features) == ("aarch64", 4, ("neon",))
    assert (machine.board.name, machine.board.family) == ("Raspberry Pi 4 Model B Rev 1.4", "raspberry-pi")
    assert machine.board.compatible == ("raspberrypi,4-model-b", "brcm,bcm2711")
    assert (machine.memory.total_bytes, machine.memory.available_bytes) == (GIB, GIB // 2)
    assert (machine.kernel, machine.system) == ("6.1.21-v8+", "Debian GNU/Linux 12 (bookworm)")


def test_loose_texts_under_any_name(tmp_path: Path) -> None:
    """They are told by what they hold."""
    write(
        tmp_path,
        {
            "1.txt": arm_cpuinfo(0xD42, 0xD42),
            "2.txt": "Mem:  7.4Gi 829Mi 6.1Gi 29Mi 513Mi 6.4Gi\nSwap: 3.7Gi 0B 3.7Gi\n",
            "3.txt": "nvidia,p3767-0003\nnvidia,tegra234\n",
            "4.txt": "# R36 (release), REVISION: 4.7, GCID: 1, BOARD: generic\n",
            "5.txt": "Linux nano 5.15.148-tegra #1 SMP PREEMPT aarch64 GNU/Linux\n",
            "some-model.txt": "Carrier `board`\n",
            "notes.md": "bought in May\n",
        },
    )
    machine = probe(tmp_path)
    assert (machine.cpu.arch, machine.cpu.microarchitecture) == ("aarch64", "Cortex-A78AE")
    assert (machine.board.name, machine.board.family) == ("Carrier board", "jetson")
    assert machine.board.release == "R36.4.7"
    assert machine.memory.total_bytes == pytest.approx(7.4 * GIB, rel=0.01)
    assert machine.kernel == "5.15.148-tegra"


def test_one_file_with_several_answers(tmp_path: Path) -> None:
    """As a bug report has them."""
    uname = "$ uname -a\nLinux box 6.1.0 #1 SMP x86_64 GNU/Linux\n"
    report = f"{uname}$ cat /proc/cpuinfo\n{x86_cpuinfo((0, 0))}\n{MEMINFO}"
    machine = probe(write(tmp_path, {"report.txt": report}) / "report.txt")
    assert (machine.cpu.arch, machine.cpu.cpus, machine.kernel) == ("x86_64", 1, "6.1.0")
    assert machine.memory.total_bytes == GIB


def test_what_powershell_has_redirected(tmp_path: Path) -> None:
    """UTF-16 with a byte order mark, and Windows line ends."""
    text = arm_cpuinfo(0xD0B).replace("\n", "\r\n").encode("utf-16")
    assert probe(write(tmp_path, {"cpuinfo": text}) / "cpuinfo").cpu.microarchitecture == "Cortex-A76"


@pytest.mark.parametrize("content", ["", "\0\0\0", "hello\n", "\udcff".encode("utf-8", "surrogatepass")])
def test_a_file_that_tells_nothing_is_refused_with_the_next_step(
    tmp_path: Path, content: str | bytes
) -> None:
    """By its name."""
    path = write(tmp_path, {"thing": content}) / "thing"
    with pytest.raises(ProbeError, match=r"thing: this file tells nothing of a box; record a box by"):
        probe(path)


def test_no_file_an_empty_folder_and_a_pipe(tmp_path: Path) -> None:
    """Nobody waits for the pipe's other end."""
    os.mkfifo(tmp_path / "pipe")
    for path, what in (
        (tmp_path / "none", "no such recording"),
        (tmp_path, "nothing"),
        (tmp_path / "pipe", "nothing"),
    ):
        with pytest.raises(ProbeError, match=what):
            probe(path)
    with pytest.raises(ProbeError):
        probe(Path("a\0b"))


def test_several_boxes_in_one_folder_are_not_mixed(tmp_path: Path) -> None:
    """One has to be named; unless one file bears the very name."""
    write(tmp_path, {"pi4": arm_cpuinfo(0xD08), "pi5": arm_cpuinfo(0xD0B)})
    with pytest.raises(ProbeError, match="several files hold a cpuinfo; name the one of your box"):
        probe(tmp_path)
    write(tmp_path, {"cpuinfo.txt": arm_cpuinfo(0xD03)})
    assert probe(tmp_path).cpu.microarchitecture == "Cortex-A53"


@pytest.mark.parametrize("name", ["proc/cpuinfo", "proc/meminfo", "sys/class/thermal/thermal_zone0/temp"])
def test_a_tree_of_empty_files_tells_nothing(tmp_path: Path, name: str) -> None:
    """Files that could not be read when the tree was made; it was taken for a box with one core."""
    with pytest.raises(ProbeError, match="empty or cannot be read; record a box by"):
        probe(write(tmp_path, {name: ""}))


def test_a_file_of_any_size_is_read_to_its_bound(tmp_path: Path) -> None:
    """4 MiB; a sparse terabyte costs nothing."""
    write(tmp_path, {"proc/cpuinfo": arm_cpuinfo(0xD0B)})
    with (tmp_path / "proc/meminfo").open("wb") as file:
        file.truncate(1 << 40)
    os.truncate(tmp_path / "proc/cpuinfo", 1 << 40)
    machine = probe(tmp_path)
    assert (machine.cpu.microarchitecture, machine.memory.total_bytes) == ("Cortex-A76", None)


@pytest.mark.parametrize(
    "text",
    [
        "\n" * 200_000,
        MEMINFO + "\n" * 50_000 + "x",
        "hw.ncpu: 4\n" + "\n" * 50_000,
        "Mem: 1 2 3 4 5 6\n" + "\n" * 50_000 + "x",
        "seconds,temperature,frequency,voltage,load_average,memory_free," * 4 + "\n2024/01/01,1,2\n",
        "a,b " * 2000 + "/",
    ],
    ids=["empty lines", "meminfo", "sysctl", "free", "csv", "pairs"],
)
def test_no_text_takes_long(tmp_path: Path, text: str) -> None:
    """Empty lines and the heading of a table took minutes: a pattern that tries every way to share them."""
    path = write(tmp_path, {"log.txt": text}) / "log.txt"
    began = time.process_time()
    with contextlib.suppress(ProbeError):
        probe(path)
    assert time.process_time() - began < 2.0


def test_a_key_without_a_value_does_not_take_the_next_line() -> None:
    """An empty value is none."""
    found = sysctl.parse("hw.model:\nhw.memsize: 1024\nhw.ncpu: 8\n")
    assert found is not None
    assert (found[0].cpus, found[1], found[2].name) == (8, 1024, "Mac")


def test_a_link_out_of_a_recording_is_not_followed(tmp_path: Path) -> None:
    """Else somebody's tree shows this box's files as its own, and a file nobody else may read."""
    (tmp_path / "secret").write_text("root:hash\n")
    (tmp_path / "os-release").write_text("PRETTY_NAME=mine\n")
    tree = write(tmp_path / "tree", {"proc/cpuinfo": arm_cpuinfo(0xD03), "usr/meminfo": MEMINFO})
    (tree / "proc/device-tree").mkdir()
    (tree / "proc/device-tree/model").symlink_to(tmp_path / "secret")
    (tree / "etc").symlink_to(tmp_path)
    (tree / "notes.txt").symlink_to("notes.txt")
    (tree / "proc/meminfo").symlink_to("../usr/meminfo")
    (tmp_path / "link").symlink_to(tree)
    for root in (tree, tmp_path / "link"):
        machine = probe(root)
        assert (machine.board.name, machine.system) == ("", "")
        assert machine.memory.total_bytes == GIB
    (tmp_path / "named").symlink_to(tree / "proc/cpuinfo")
    assert probe(tmp_path / "named").cpu.microarchitecture == "Cortex-A53"


def test_a_pipe_in_a_recording_is_not_waited_for(tmp_path: Path) -> None:
    """A tar keeps them; wherever the probes look, one that is read from would hang."""
    tree = write(tmp_path, {"proc/cpuinfo": arm_cpuinfo(0xD03)})
    for name in (
        "sys/bus/pci/devices/0000:00:02.0/class",
        "proc/driver/nvidia/gpus/0000:01:00.0/information",
        "sys/class/drm/card0/device/uevent",
        "usr/share/misc/pci.ids",
    ):
        (tree / name).parent.mkdir(parents=True)
        os.mkfifo(tree / name)
    assert probe(tree).gpus == ()


# ---- memory --------------------------------------------------------------------------------------


def test_compressed_swap_and_the_tightest_limit(tmp_path: Path) -> None:
    """A limit above what the box has is none."""
    write(
        tmp_path,
        PI
        | {
            "sys/block/zram0/disksize": f"{GIB // 2}\n",
            "proc/self/cgroup": "0::/a/b\n",
            "sys/fs/cgroup/a/b/memory.max": f"{8 * GIB}\n",
            "sys/fs/cgroup/a/b/memory.current": "1\n",
        },
    )
    memory = probe(tmp_path).memory
    assert (memory.zram_bytes, memory.limit_bytes) == (GIB // 2, None)
    write(tmp_path, {"sys/fs/cgroup/a/memory.max": f"{GIB // 4}\n", "sys/fs/cgroup/a/memory.current": "1\n"})
    assert probe(tmp_path).memory.limit_bytes == GIB // 4


def test_a_containers_limit_without_a_word_whose_it_is(tmp_path: Path) -> None:
    """A recording from within a container seldom has proc/self."""
    limit = {"sys/fs/cgroup/memory.max": f"{GIB // 4}\n", "sys/fs/cgroup/memory.current": "1\n"}
    assert probe(write(tmp_path, PI | limit)).memory.limit_bytes == GIB // 4


def test_a_zram_disk_that_holds_logs_is_no_swap(tmp_path: Path) -> None:
    """/proc/swaps knows."""
    swaps = "Filename Type Size Used Priority\n/dev/zram0 partition 1024 0 100\n"
    write(tmp_path, PI | {"sys/block/zram1/disksize": f"{GIB}\n", "proc/swaps": swaps})
    assert probe(tmp_path).memory.zram_bytes == 1 << 20


# ---- board ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "name", "family"),
    [
        ({f"{DMI}/sys_vendor": "To Be Filled By O.E.M.\n", f"{DMI}/board_name": "B450\n"}, "B450", "pc"),
        ({f"{DMI}/sys_vendor": "LENOVO\n", f"{DMI}/product_name": "20AN\n",
          f"{DMI}/product_version": "ThinkPad T440p\n"}, "LENOVO ThinkPad T440p", "pc"),
        ({f"{DMI}/sys_vendor": "QEMU\n", f"{DMI}/product_name": "PC\n"}, "QEMU PC", "virtual"),
        ({"sys/firmware/devicetree/base/model": "Pine H64\0",
          "sys/firmware/devicetree/base/compatible": "pine64,pine-h64\0allwinner,sun50i-h6\0"},
         "Pine H64", "allwinner"),
        ({"proc/device-tree/model": "x\x1b[31mred\0"}, "x [31mred", ""),
        ({}, "", ""),
    ],
)  # fmt: skip
def test_boards(tmp_path: Path, files: dict[str, str | bytes], name: str, family: str) -> None:
    """Device tree and DMI, without what makers forgot to fill in and what a terminal would obey."""
    board = probe(write(tmp_path, {"proc/cpuinfo": arm_cpuinfo(0xD03)} | files)).board
    assert (board.name, board.family) == (name, family)


@pytest.mark.parametrize(
    ("last_lines", "name"),
    [
        ("Hardware\t: BCM2835\nRevision\t: c03111\nModel\t\t: Raspberry Pi 4\n", "Raspberry Pi 4"),
        ("Hardware\t: BCM2835\nRevision\t: 902120\nSerial\t\t: 1\n", "Raspberry Pi Zero 2 W"),
        ("Hardware\t: BCM2708\nRevision\t: 000e\n", "Raspberry Pi Model B"),
        ("Hardware\t: ODROID-XU4\nRevision\t: 0100\n", "ODROID-XU4"),
    ],
)  # fmt: skip
def test_the_last_lines_of_cpuinfo_name_the_board(tmp_path: Path, last_lines: str, name: str) -> None:
    """BCM2835 is what every Raspberry Pi says."""
    path = write(tmp_path, {"cpuinfo": arm_cpuinfo(0xD08) + last_lines}) / "cpuinfo"
    assert probe(path).board.name == name


# ---- heat and power ------------------------------------------------------------------------------


def zone(at: int, kind: str, temp: int, *trips: tuple[str, int]) -> dict[str, str | bytes]:
    folder = f"sys/class/thermal/thermal_zone{at}"
    files: dict[str, str | bytes] = {f"{folder}/type": f"{kind}\n", f"{folder}/temp": f"{temp}\n"}
    for number, (trip, celsius) in enumerate(trips):
        files[f"{folder}/trip_point_{number}_type"] = f"{trip}\n"
        files[f"{folder}/trip_point_{number}_temp"] = f"{celsius}\n"
    return files


def heat_of(root: Path, *files: dict[str, str | bytes]) -> Heat:
    for some in (PI, *files):
        write(root, some)
    return probe(root).heat


def test_the_hottest_zone_and_where_it_slows_down(tmp_path: Path) -> None:
    """Not a sensor that is broken, nor the PMIC of a Jetson, which says 100 for ever."""
    heat = heat_of(
        tmp_path,
        zone(0, "cpu-thermal", 61500, ("critical", 110000), ("passive", 85000), ("active", 50000)),
        zone(1, "gpu-thermal", 55000),
        zone(2, "PMIC-Die", 100000),
        zone(3, "broken", -273000),
        zone(4, "broken", 999999),
    )
    assert heat == Heat(zone="cpu-thermal", celsius=61.5, trip_celsius=85.0)


def test_the_firmware_of_a_raspberry_pi_says_why(tmp_path: Path) -> None:
    """Bits 0 to 3 now, sixteen higher since the start."""
    heat = heat_of(tmp_path, {"sys/devices/platform/soc/soc:firmware/get_throttled": "50005\n"})
    assert heat.throttled == ("under_voltage", "throttled")
    assert heat.throttled_before == ("under_voltage", "throttled")


@pytest.mark.parametrize(
    ("files", "now", "before"),
    [
        ({"sys/class/thermal/cooling_device0/type": "thermal-cpufreq-0\n",
          "sys/class/thermal/cooling_device0/cur_state": "3\n"}, ("throttled",), ()),
        ({"sys/class/thermal/cooling_device0/type": "pwm-fan\n",
          "sys/class/thermal/cooling_device0/cur_state": "3\n"}, (), ()),
        ({"sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "7\n"}, (), ("throttled",)),
        ({"sys/class/hwmon/hwmon1/name": "rpi_volt\n", "sys/class/hwmon/hwmon1/in0_lcrit_alarm": "1\n"},
         ("under_voltage",), ()),
        ({"sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "200000\n",
          "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "2000000\n"}, (), ()),
    ],
)  # fmt: skip
def test_what_is_done_about_heat(
    tmp_path: Path, files: dict[str, str | bytes], now: tuple[str, ...], before: tuple[str, ...]
) -> None:
    """A CPU slowed down, not a fan; a low clock alone is idleness."""
    heat = heat_of(tmp_path, files)
    assert (heat.throttled, heat.throttled_before) == (now, before)


@pytest.mark.parametrize(
    ("supplies", "power"),
    [
        ({}, Power()),
        ({"AC": {"type": "Mains", "online": "1"}}, Power(source="mains")),
        ({"BAT0": BATTERY | {"status": "Discharging", "capacity": "37"},
          "AC": {"type": "Mains", "online": "0"}},
         Power(source="battery", battery_percent=37)),
        ({"BAT0": BATTERY | {"status": "Full"}}, Power(source="mains")),
        ({"mouse": BATTERY | {"scope": "Device", "status": "Discharging", "capacity": "5"}}, Power()),
    ],
)  # fmt: skip
def test_where_the_power_comes_from(
    tmp_path: Path, supplies: dict[str, dict[str, str]], power: Power
) -> None:
    """The battery of a mouse is not ours."""
    files = {
        f"sys/class/power_supply/{name}/{key}": f"{value}\n"
        for name, fields in supplies.items()
        for key, value in fields.items()
    }
    assert probe(write(tmp_path, PI | files)).power == power


# ---- storage -------------------------------------------------------------------------------------


def disk(root: Path, number: str, name: str, files: dict[str, str], parent: str = "devices/platform") -> None:
    """A block device in sysfs, with the links that the kernel makes."""
    folder = root / "sys" / parent / name
    write(folder, {**files})
    folder.mkdir(parents=True, exist_ok=True)
    for link in (root / "sys/dev/block" / number, root / "sys/class/block" / Path(name).name):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(folder)


def mounted(root: Path, *lines: str) -> Path:
    write(root, {"proc/self/mountinfo": "".join(f"{at} 1 {line}\n" for at, line in enumerate(lines, 20))})
    return root


def storage_of(root: Path) -> tuple[str, str]:
    found = storage(Path("/var/lib/models"), root)
    return found.device, found.kind


def test_a_partition_of_a_card_and_of_emmc(tmp_path: Path) -> None:
    """The card says which it is."""
    disk(tmp_path, "179:0", "mmcblk0", {"device/type": "SD\n"})
    disk(tmp_path, "179:2", "mmcblk0/mmcblk0p2", {"partition": "2\n"})
    mounted(tmp_path, "179:2 / / rw - ext4 /dev/root rw", "0:5 / /dev rw - devtmpfs dev rw")
    assert storage_of(tmp_path) == ("mmcblk0", "sd")
    write(tmp_path, {"sys/devices/platform/mmcblk0/device/type": "MMC\n"})
    assert storage_of(tmp_path) == ("mmcblk0", "emmc")
    assert storage(Path("/var"), tmp_path).read_bytes_s == READ_BYTES_S["emmc"]


@pytest.mark.parametrize(
    ("name", "parent", "files", "kind"),
    [
        ("nvme0n1", "devices/pci", {"queue/rotational": "0\n"}, "nvme"),
        ("sda", "devices/pci/ata1", {"queue/rotational": "0\n"}, "ssd"),
        ("sda", "devices/pci/ata1", {"queue/rotational": "1\n"}, "disk"),
        ("sda", "devices/pci/usb1/1-1", {"queue/rotational": "0\n"}, "usb"),
        ("zram1", "devices/virtual/block", {}, "memory"),
        ("vda", "devices/pci/virtio0", {"queue/rotational": "1\n"}, ""),
    ],
)
def test_kinds_of_disks(tmp_path: Path, name: str, parent: str, files: dict[str, str], kind: str) -> None:
    """By name, bus and rotation; what a virtual disk says of itself counts for little."""
    disk(tmp_path, "8:0", name, files, parent)
    mounted(tmp_path, "8:0 / / rw - ext4 /dev/x rw")
    assert storage_of(tmp_path) == (name, kind)


def test_lvm_on_a_disk_and_btrfs_without_a_number(tmp_path: Path) -> None:
    """Down to what holds the bytes."""
    disk(tmp_path, "259:0", "nvme0n1", {})
    disk(tmp_path, "259:1", "nvme0n1/nvme0n1p1", {"partition": "1\n"})
    disk(tmp_path, "253:0", "dm-0", {})
    slaves = tmp_path / "sys/devices/platform/dm-0/slaves"
    slaves.mkdir()
    (slaves / "nvme0n1p1").symlink_to(tmp_path / "sys/devices/platform/nvme0n1/nvme0n1p1")
    mounted(tmp_path, "253:0 / / rw - ext4 /dev/mapper/vg-root rw")
    assert storage_of(tmp_path) == ("nvme0n1", "nvme")
    mounted(tmp_path, "0:24 /@ / rw shared:1 - btrfs /dev/nvme0n1p1 rw,subvol=/@")
    assert storage_of(tmp_path) == ("nvme0n1", "nvme")


def test_an_overlay_lies_on_another_mount(tmp_path: Path) -> None:
    """In a container, which cannot see it, nothing is told."""
    disk(tmp_path, "8:0", "sda", {"queue/rotational": "0\n"})
    overlay = "0:50 / / rw - overlay overlay rw,lowerdir=/ro,upperdir=/data/up,workdir=/data/w"
    mounted(tmp_path, overlay, "8:0 / /data rw - ext4 /dev/sda rw")
    assert storage_of(tmp_path) == ("sda", "ssd")
    mounted(tmp_path, overlay)
    assert storage_of(tmp_path) == ("overlay", "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0:40 / /var/lib rw - nfs4 server:/models rw", ("server:/models", "network")),
        ("0:41 / /var/lib rw - tmpfs tmpfs rw", ("tmpfs", "memory")),
        ("0:42 / /var/lib/models\\040old rw - tmpfs tmpfs rw", ("x", "")),
    ],
)
def test_file_systems_without_a_disk(tmp_path: Path, line: str, expected: tuple[str, str]) -> None:
    """The longest mount point above the folder decides; a longer name beside it does not."""
    mounted(tmp_path, "9:9 / / rw - ext4 /dev/x rw", line)
    assert storage_of(tmp_path) == expected


def test_this_boxs_disk_has_room(tmp_path: Path) -> None:
    """A folder that is not there yet lies where its parent does."""
    found = storage(tmp_path / "not/yet")
    assert found.total_bytes
    assert found.free_bytes is not None
    assert storage(Path("/x"), tmp_path) == Storage()


# ---- junk ----------------------------------------------------------------------------------------

WORDS = st.sampled_from(
    [
        "processor", "model name", "flags", "Features", "CPU implementer", "isa", "Architecture", "CPU(s)",
        "Model", "Thread(s) per core", "Core(s) per socket", "Vendor ID", "Flags", "Mem", "MemTotal",
        "hw.ncpu", "hw.memsize", "Hardware", "physical id", "core id", "siblings", "cpu cores", "Revision",
        "hw.cpufamily", "hw.perflevel0.logicalcpu", "machdep.cpu.brand_string",
    ]
)  # fmt: skip
VALUES = st.one_of(
    st.text(max_size=20),
    st.integers(-10, 1 << 80).map(str),
    st.sampled_from(
        ["0x41", "x86_64", "fpu lm", "0-99999999999", "9" * 5000, "rv64v", "Apple M99999999999", "٣"]
    ),
)
LINES = st.lists(
    st.tuples(WORDS, st.sampled_from([":", "\t: ", " = ", ": \0"]), VALUES).map("".join), max_size=12
)
JUNK = st.one_of(
    st.binary(max_size=300), LINES.map(lambda lines: "\n".join(lines).encode("utf-8", "replace"))
)


@settings(max_examples=300, deadline=None)
@given(JUNK)
def test_no_text_makes_a_parser_fall(data: bytes) -> None:
    """Each of them, whatever it is given."""
    text = data.decode("utf-8", "surrogateescape")
    for parse in (cpuinfo.parse, lscpu.parse, sysctl.parse, parse_free, parse_meminfo, kernel.parse):
        parse(text)


PLACES = (
    "proc/cpuinfo",
    "proc/meminfo",
    "proc/version",
    "proc/swaps",
    "proc/self/cgroup",
    "proc/self/mountinfo",
    "proc/device-tree/model",
    "proc/device-tree/compatible",
    "sys/devices/system/cpu/online",
    "sys/devices/system/cpu/present",
    "sys/devices/system/cpu/cpu0/cpu_capacity",
    "sys/class/thermal/thermal_zone0/temp",
    "sys/class/thermal/thermal_zone0/type",
    "sys/class/power_supply/BAT0/capacity",
    "sys/class/dmi/id/product_name",
    "sys/block/zram0/disksize",
    "etc/os-release",
    "etc/nv_tegra_release",
    "sys/devices/platform/soc/soc:firmware/get_throttled",
    "lscpu.txt",
    "free.txt",
    "model.txt",
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(PLACES), JUNK, max_size=6), JUNK)
def test_no_recording_makes_the_probe_fall(tmp_path: Path, files: dict[str, bytes], file: bytes) -> None:
    """A Machine, or a ProbeError; of junk in each place, in a tree and as a file."""
    for name in PLACES:
        (tmp_path / "tree" / name).unlink(missing_ok=True)
    tree = write(tmp_path / "tree", {**files})
    for path in (tree, write(tmp_path, {"file": file}) / "file"):
        try:
            machine = probe(path)
            assert machine.cpu.cpus >= machine.cpu.cores >= 1
            # It can be sent: no number beyond 64 bits, no half of a character.
            assert msgspec.json.decode(msgspec.json.encode(machine), type=Machine) == machine
            assert isinstance(diagnose(machine), list)
        except ProbeError as error:
            assert str(error).isprintable()
    assert isinstance(storage(Path("/var"), tree), Storage)


def test_every_kind_of_text_is_known_by_a_mark_or_a_name() -> None:
    """A field of Texts that nothing fills would be a promise."""
    assert {*recording.MARKS, "compatible", "model"} == set(recording.Texts.__struct_fields__)


def test_a_recorded_gpu_is_judged(tmp_path: Path) -> None:
    """As one that is really there."""
    (tmp_path / "vulkaninfo.txt").write_text(
        "GPU0:\n\tdeviceType = PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU\n\tdeviceName = V3D 4.2\n"
    )
    (gpu,) = probe(tmp_path).gpus
    assert not gpu.is_worth_it
    assert "VideoCore" in gpu.reason


def test_an_imitated_gpu_does_not_hide_the_chips_own(tmp_path: Path) -> None:
    """A board whose vulkaninfo lists llvmpipe alone has its GPU all the same, and shares the RAM with it."""
    llvmpipe = "GPU0:\n\tdeviceType = PHYSICAL_DEVICE_TYPE_CPU\n\tdeviceName = llvmpipe (LLVM 15.0.6)\n"
    machine = probe(write(tmp_path, PI | {"vulkaninfo.txt": llvmpipe}))
    assert [gpu.kind for gpu in machine.gpus] == ["integrated", "software"]
    assert machine.has_unified_memory is True


def test_vulkan_on_a_mac_is_metal(tmp_path: Path) -> None:
    """MoltenVK lists the GPU that Metal has."""
    vulkan = "GPU0:\n\tvendorID = 0x106b\n\tdeviceName = Apple M2\n\tdriverName = MoltenVK\n"
    sysctl_text = "hw.memsize: 17179869184\nmachdep.cpu.brand_string: Apple M2\nhw.ncpu: 8\n"
    (gpu,) = probe(write(tmp_path, {"sysctl.txt": sysctl_text, "vulkaninfo.txt": vulkan})).gpus
    assert (gpu.api, gpu.is_worth_it) == ("metal", True)


def test_what_we_may_open_says_nothing_about_a_recorded_box(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its device files were recorded as plain files, closed to the user who looks at them."""
    monkeypatch.setattr(os, "access", lambda *_: False)
    (gpu,) = probe(write(tmp_path, PI | {"dev/dri/renderD128": ""})).gpus
    assert (gpu.is_usable, "may not open" in gpu.reason) == (None, False)


def test_a_card_whose_driver_does_not_answer_is_there_and_not_usable(tmp_path: Path) -> None:
    """nvidia-smi says no more than that; which card it is stands elsewhere, if at all."""
    failed = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that"
    (tmp_path / "nvidia-smi.txt").write_text(f"{failed} the latest NVIDIA driver is installed and running.\n")
    (gpu,) = probe(tmp_path).gpus
    assert (gpu.name, gpu.is_usable) == ("NVIDIA GPU", False)
    assert gpu.reason == "the kernel has no driver of NVIDIA's that answers"


def test_a_folder_of_large_files_is_read_from_the_small_ones_on(tmp_path: Path) -> None:
    """Logs of megabytes keep nobody from what lies beside them."""
    for number in range(20):
        (tmp_path / f"a{number}.log").write_text("nothing of a box\n" * 200_000)
    (tmp_path / "z.txt").write_text(
        "processor\t: 0\nmodel name\t: Intel(R) N100\nflags\t\t: fpu lm sse2 avx2\n"
    )
    assert probe(tmp_path).cpu.model == "Intel(R) N100"


def test_a_mac_s_recording_that_holds_half_of_a_count_has_no_more_cores_than_cpus(tmp_path: Path) -> None:
    """Whichever half it is."""
    (tmp_path / "sysctl.txt").write_text("hw.ncpu: 2\nhw.perflevel0.logicalcpu: 1\n")
    cpu = probe(tmp_path).cpu
    assert 1 <= cpu.cores <= cpu.cpus
