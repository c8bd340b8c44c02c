"""Well-known errors of llama.cpp and its drivers, with the step that really applies on this box.

Pure: the words may come from an engine child's last words, a daemon's `last_crash` or a person.
"""

import re
from collections.abc import Callable

from agent.doctor.slowness import Facts, slow
from agent.doctor.words import printable, size
from agent.errors import Internal
from agent.findings import Finding, Severity
from agent.hardware.machine import Gpu, Machine

MAX_QUOTED = 160

KILLED = re.compile(r"SIGKILL, out of memory")
STOPPED_ITSELF = re.compile(r"GGML_ASSERT\([^\n]*|ggml_abort|SIGABRT")
WRONG_CPU = re.compile(r"SIGILL|illegal instruction", re.IGNORECASE)
SLOW = re.compile(r"slow generation", re.IGNORECASE)
TEMPLATE_BROKEN = re.compile(r"chat template is not valid jinja[^\n]*")
TEMPLATE = re.compile(r"chat[ _](template|format)[^\n]*", re.IGNORECASE)
NO_ROOM = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|cudaMalloc failed|cudaErrorMemoryAllocation"
    r"|ErrorOutOfDeviceMemory|ErrorOutOfHostMemory|ErrorOutOfPoolMemory"
    r"|Device memory allocation of size \d+ failed"
    r"|(failed|unable) to allocate [^\n]*buffer[^\n]*|out of memory",
    re.IGNORECASE,
)
ON_A_GPU = re.compile(r"cuda|vulkan|vk::|metal|Device(Memory|LocalMemory)", re.IGNORECASE)

NO_TEMPLATE = "chat template missing"
"""What `explain` is told of a model file whose header has none."""


def explain(text: str, machine: Machine, facts: Facts | None = None) -> Finding | None:
    """The finding for the first well-known error in `text`, or None.

    `facts` are about speed: with them "slow generation" is given its reasons.
    """
    for pattern, say in _KNOWN:
        if found := pattern.search(text):
            return say(printable(found.group()[:MAX_QUOTED]), text, machine)
    if facts is not None and SLOW.search(text):
        return slow(facts)
    return None


def _stopped_itself(quoted: str, _text: str, _machine: Machine) -> Finding:
    return Finding(
        Severity.WARNING,
        "llama_stopped_itself",
        f"llama.cpp met a state it does not allow and stopped itself ({quoted}); the daemon starts the engine"
        " again, its answers go on, and a request that is computed at two such deaths ends in"
        f" `{Internal.code}`.",
        "If it comes back, lower engine.n_ctx or engine.slots, try the newest release, and report the"
        ' words after "last words:" in the log.',
    )


def _wrong_cpu(quoted: str, _text: str, machine: Machine) -> Finding:
    cpu = machine.cpu.model or machine.cpu.microarchitecture or machine.cpu.arch
    return Finding(
        Severity.ERROR,
        "built_for_another_cpu",
        f"llama.cpp was built for another CPU than this {printable(cpu)}: the engine ends by {quoted}.",
        "Build it here with: ./build/quickstart",
    )


def _killed(_quoted: str, _text: str, _machine: Machine) -> Finding:
    return Finding(
        Severity.WARNING,
        "killed_for_memory",
        "The kernel killed the engine process because memory had run out; it is started again in a smaller"
        " budget, and its answers go on.",
        "Free memory, bound it with engine.memory, or choose a smaller quant with models.name.",
    )


def _no_room(quoted: str, text: str, machine: Machine) -> Finding:
    what = f"llama.cpp could not have the memory it asked for ({quoted})"
    gpu = _gpu_of(text, machine)
    if gpu is None:
        return Finding(
            Severity.WARNING,
            "out_of_memory",
            f"{what}: {size(machine.memory.total_bytes)} of RAM are shared with everything else on this box.",
            "Free memory, bound it with engine.memory, lower engine.n_ctx, or choose a smaller quant with"
            " models.name.",
        )
    name = printable(gpu.name)
    if machine.has_unified_memory or gpu.is_unified:
        return Finding(
            Severity.WARNING,
            "out_of_unified_memory",
            f"{what}: {name} has no memory of its own, it shares {size(machine.memory.total_bytes)} of RAM"
            " with the CPU and all programs, and cannot use swap.",
            "Set engine.memory to what is really free, lower engine.n_ctx, or choose a smaller quant with"
            " models.name.",
        )
    return Finding(
        Severity.WARNING,
        "out_of_device_memory",
        f"{what}: {name} has {size(gpu.total_bytes)} of its own memory.",
        "End other programs that use the card; else put fewer layers on it: a smaller quant with models.name"
        " or a lower engine.n_ctx leave room for what else it has to hold.",
    )


def _gpu_of(text: str, machine: Machine) -> Gpu | None:
    """The GPU whose memory the text is about; None where it is the CPU's."""
    real = [gpu for gpu in machine.gpus if gpu.kind != "software"]
    if not real or not ON_A_GPU.search(text):
        return None
    api = next((api for api in ("cuda", "vulkan", "metal") if api in text.lower()), "")
    return next((gpu for gpu in real if gpu.api == api), real[0])


def _template_broken(quoted: str, _text: str, _machine: Machine) -> Finding:
    return Finding(
        Severity.ERROR,
        "chat_template_broken",
        f"The model file's {quoted}.",
        "Choose another file of this model with models.name, or convert it again with llama.cpp's"
        " convert_hf_to_gguf.py.",
    )


def _template(quoted: str, text: str, _machine: Machine) -> Finding:
    if "refuses" in text:
        return Finding(
            Severity.WARNING,
            "chat_template_refuses",
            f"A request did not have the form this model was made for: the {quoted}.",
            "Send one `system` text at most, then user and assistant in turn; with a model that has no system"
            " role say it in the prompt.",
        )
    return Finding(
        Severity.WARNING,
        "chat_template_missing",
        "The model file has no chat template: turns are given to it as plain paragraphs, which a base model"
        " continues rather than answers.",
        "Choose an -Instruct model with models.name, or a file whose header has tokenizer.chat_template.",
    )


_KNOWN: tuple[tuple[re.Pattern[str], Callable[[str, str, Machine], Finding]], ...] = (
    # Memory first: an allocation that fails is often what an assertion stumbles over next.
    (KILLED, _killed),
    (NO_ROOM, _no_room),
    (WRONG_CPU, _wrong_cpu),
    (STOPPED_ITSELF, _stopped_itself),
    (TEMPLATE_BROKEN, _template_broken),
    (TEMPLATE, _template),
)
