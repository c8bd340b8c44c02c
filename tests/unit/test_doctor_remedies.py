"""Well-known errors and what helps on this very box; and why answers are slow on it."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.doctor.remedies import NO_TEMPLATE, explain
from agent.doctor.slowness import Facts, Load, read_load, slow
from agent.findings import Severity
from agent.hardware.machine import Board, Cpu, Gpu, Heat, Machine, Memory, Storage

GIB = 1 << 30
CARD = Gpu(name="NVIDIA GeForce RTX 3060", api="cuda", kind="discrete", total_bytes=12 * GIB)
ORIN = Gpu(name="Orin Nano", api="cuda", kind="integrated", is_unified=True)
PC = Machine(
    cpu=Cpu(arch="x86_64", features=("avx", "avx2"), cpus=8, cores=4),
    memory=Memory(total_bytes=16 * GIB),
    gpus=(CARD,),
    has_unified_memory=False,
)
JETSON = Machine(
    cpu=Cpu(arch="aarch64", features=("dotprod",), cpus=6, cores=6),
    memory=Memory(total_bytes=8 * GIB),
    board=Board(name="Jetson Orin Nano", family="jetson"),
    gpus=(ORIN,),
    has_unified_memory=True,
)
PI = Machine(
    cpu=Cpu(arch="aarch64", model="Cortex-A72", features=("neon",), cpus=4, cores=4),
    memory=Memory(total_bytes=4 * GIB),
)
LAVAPIPE = Gpu(name="llvmpipe", api="vulkan", kind="software")


@pytest.mark.parametrize(
    ("text", "machine", "code"),
    [
        ("llama-batch.cpp:42: GGML_ASSERT(n_tokens <= n_batch) failed", PC, "llama_stopped_itself"),
        ("SIGABRT while ready", PI, "llama_stopped_itself"),
        ("SIGILL", PI, "built_for_another_cpu"),
        ("SIGKILL, out of memory while ready", JETSON, "killed_for_memory"),
        ("CUDA error: out of memory\n  current device: 0", PC, "out_of_device_memory"),
        ("ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed", PC, "out_of_device_memory"),
        ("vk::Device::allocateMemory: ErrorOutOfDeviceMemory", PC, "out_of_device_memory"),
        ("CUDA error: out of memory", JETSON, "out_of_unified_memory"),
        (
            "alloc_tensors: unable to allocate CUDA0 buffer",
            JETSON,
            "out_of_unified_memory",
        ),
        ("llama_init: failed to allocate buffer for kv cache", PC, "out_of_memory"),
        ("unable to allocate CPU buffer", PI, "out_of_memory"),
        ("the model file's chat template is not valid jinja: line 3", PI, "chat_template_broken"),
        ("the model's chat template refuses these messages: roles", PI, "chat_template_refuses"),
        ("Chat format error", PI, "chat_template_missing"),
        (NO_TEMPLATE, PI, "chat_template_missing"),
    ],
)
def test_a_well_known_error_is_recognised(text: str, machine: Machine, code: str) -> None:
    """Each has a step to take."""
    finding = explain(text, machine)
    assert finding is not None
    assert (finding.code, bool(finding.remedy)) == (code, True)


@pytest.mark.parametrize("text", ["", "exit status 1 while ready", "SIGKILL while ready", "slow generation"])
def test_what_is_not_known_is_not_guessed(text: str) -> None:
    """No finding; and without facts nothing is said about speed."""
    assert explain(text, PC) is None


def test_memory_that_a_gpu_shares_is_bounded_with_our_own_settings() -> None:
    """A Jetson has no card whose memory could be freed; a PC has no unified memory to bound."""
    shared, own = explain("CUDA error: out of memory", JETSON), explain("CUDA error: out of memory", PC)
    assert shared is not None
    assert own is not None
    assert "shares 8.0 GiB of RAM" in shared.what
    assert "engine.memory" in shared.remedy
    assert "has 12.0 GiB of its own" in own.what
    assert "fewer layers" in own.remedy
    assert "engine.memory" not in own.remedy


def test_a_software_gpu_has_no_memory_of_its_own() -> None:
    """What llvmpipe cannot have, the RAM cannot give."""
    finding = explain("ErrorOutOfDeviceMemory", replace(PI, gpus=(LAVAPIPE,)))
    assert finding is not None
    assert finding.code == "out_of_memory"


def test_an_assertion_after_a_failed_allocation_is_a_matter_of_memory() -> None:
    """The cause before what stumbled over it."""
    words = "unable to allocate CPU buffer / GGML_ASSERT(buffer) failed"
    finding = explain(words, PI)
    assert finding is not None
    assert finding.code == "out_of_memory"


def test_foreign_words_cannot_move_the_cursor() -> None:
    """What is quoted is printable and short."""
    finding = explain("GGML_ASSERT(\x1b[2J" + "x" * 5000, PI)
    assert finding is not None
    assert finding.what.isprintable()
    assert len(finding.what) < 600


def test_a_build_for_another_cpu_names_this_one() -> None:
    """It will not work: an error."""
    finding = explain("SIGILL", PI)
    assert finding is not None
    assert finding.severity is Severity.ERROR
    assert "Cortex-A72" in finding.what
    assert "./build/quickstart" in finding.remedy


# ---- slow generation -----------------------------------------------------------------------------


def test_a_box_without_a_reason_is_not_called_slow() -> None:
    """AVX2, cool, warm, alone."""
    assert slow(Facts(machine=PC, n_threads=4, load=0.3, storage=Storage(kind="sd"))) is None


@pytest.mark.parametrize(
    ("facts", "words", "step"),
    [
        (Facts(machine=PI, n_threads=4), "no dotprod", "smaller model"),
        (
            Facts(machine=replace(PC, cpu=Cpu(arch="x86_64", features=("avx",), cores=4))),
            "no avx2",
            "smaller model",
        ),
        (Facts(machine=PC, is_cold=True, storage=Storage(kind="sd")), "from an SD card", "engine.memory"),
        (Facts(machine=PC, n_threads=8), "8 threads share 4 physical cores", "engine.threads: auto"),
        (Facts(machine=PC, load=3.5), "load 3.5 on 4", "`top`"),
        (Facts(machine=PC, swapped_bytes=4 * GIB), "4.0 GiB of memory are swapped out", "End"),
        (
            Facts(machine=replace(PC, heat=Heat(celsius=84.0, throttled=("under_voltage",)))),
            "at 84 °C (under voltage)",
            "supply",
        ),
        (Facts(machine=PC, device="llvmpipe (LLVM 15, 256 bits)"), "imitated by the CPU", "driver"),
    ],
)
def test_each_reason_for_slowness_is_named(facts: Facts, words: str, step: str) -> None:
    """With its own step."""
    finding = slow(facts)
    assert finding is not None
    assert words in finding.what
    assert step.lower() in finding.remedy.lower()


def test_all_reasons_stand_in_one_finding() -> None:
    """The question is answered once, and through `explain` as well."""
    facts = Facts(machine=PI, n_threads=6, is_cold=True, load=9.0)
    finding = explain("Slow generation", PI, facts)
    assert finding == slow(facts)
    assert finding is not None
    assert finding.what.count(";") == 3


def test_a_gpu_needs_no_fast_cpu_and_an_unknown_cpu_is_not_blamed() -> None:
    """Only what was really found."""
    assert slow(Facts(machine=PI, device="NVIDIA Orin")) is None
    assert slow(Facts(machine=Machine(cpu=Cpu(arch="aarch64")))) is None
    assert slow(Facts(machine=Machine(cpu=Cpu(arch="riscv64", features=("v",))))) is None


@pytest.mark.parametrize(
    ("loadavg", "busy"),
    [("2.50 0.70 0.30 4/300 4242", 2.5), ("2.50 0.70 0.30 1/300 4242", 0), ("0.10 0.7 0.3 9/300 1", 0.1)],
)
def test_load_and_swap_are_read_from_proc(tmp_path: Path, loadavg: str, busy: float) -> None:
    """Busy is what was so for a minute and is so now, without us; nothing is known without the files."""
    assert read_load(tmp_path) == Load()
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/loadavg").write_text(f"{loadavg}\n")
    (tmp_path / "proc/meminfo").write_text("SwapTotal: 2048 kB\nSwapFree: 1024 kB\n")
    assert read_load(tmp_path) == Load(busy, 1 << 20)
