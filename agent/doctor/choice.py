"""What would be loaded now, in which memory, and why; or why nothing can be."""

from pathlib import Path

from msgspec import Struct

from agent.catalog.budget import Budget
from agent.catalog.gguf import GgufHeader, read_header
from agent.catalog.placement import Placement, Resources
from agent.config import Config
from agent.doctor.remedies import NO_TEMPLATE, explain
from agent.doctor.words import finding_of
from agent.errors import InsufficientMemory, ModelFileError, ModelUnavailable
from agent.findings import Finding, Severity
from agent.hardware.machine import Machine
from agent.model_finder import choose

TEMPLATE_KEY = "tokenizer.chat_template"


class Choice(Struct, frozen=True, kw_only=True):
    """The decision in plain values, in llama.cpp's counts. Profiles are left out: they are prompts."""

    name: str
    quant: str
    file: str
    n_ctx: int
    slots: int
    threads: int
    kv_type: str
    n_gpu_layers: int
    device: str
    is_repacked: bool
    why: tuple[str, ...]


class Room(Struct, frozen=True, kw_only=True):
    """The memory of the box in bytes, in parts: what others have, our hard
    memory, the part of the model file that stays, and what is left."""

    total_bytes: int
    others_bytes: int
    hard_bytes: int = 0
    hot_file_bytes: int = 0
    free_bytes: int = 0
    is_warm: bool = True
    level: int = 0


def outcome(config: Config, resources: Resources) -> Placement | ModelUnavailable | InsufficientMemory:
    """What the daemon would load with so much; the refusal is a value here."""
    try:
        return choose(config, resources)
    except (ModelUnavailable, InsufficientMemory) as error:
        return error


def header_of(placement: Placement) -> GgufHeader | None:
    """What the chosen file says about itself; None where it cannot be read any more."""
    try:
        return read_header(Path(placement.load.path))
    except ModelFileError:
        return None


def judge(header: GgufHeader | None, machine: Machine) -> list[Finding]:
    """A file that was not made for conversations."""
    if header is None or TEMPLATE_KEY in header.metadata or TEMPLATE_KEY in header.lengths:
        return []
    finding = explain(NO_TEMPLATE, machine)
    return [finding] if finding else []


def judge_gpu_wish(wish: int | str, placement: Placement) -> list[Finding]:
    """A GPU is asked for by name of its layers, and none computes."""
    if wish in ("auto", "off") or placement.load.n_gpu_layers:
        return []
    what = (
        f"engine.gpu is {wish}, and everything is computed on the CPU: this build has no GPU it can use here."
    )
    remedy = "See the devices of llama.cpp above; build it for this box's GPU, or set engine.gpu to auto."
    return [Finding(Severity.WARNING, "gpu_wish_not_kept", what, remedy)]


def judge_refusal(error: ModelUnavailable | InsufficientMemory) -> Finding:
    """Nothing can be loaded: the sentence of placement, with its numbers."""
    return finding_of(error, Severity.ERROR, error.code)


def summary(placement: Placement) -> Choice:
    """The decision without what is private."""
    load = placement.load
    return Choice(
        name=placement.name,
        quant=placement.quant,
        file=load.path,
        n_ctx=load.n_ctx,
        slots=load.n_seq_max,
        threads=load.n_threads,
        kv_type=load.kv_type,
        n_gpu_layers=load.n_gpu_layers,
        device=load.device,
        is_repacked=load.is_repacked,
        why=placement.why,
    )


def room(total_bytes: int | None, resources: Resources, budget: Budget | None) -> Room:
    """How the memory is shared out; what a cgroup keeps from us counts as the others'."""
    available = resources.available_bytes
    if resources.cgroup_bytes is not None:
        available = min(available, resources.cgroup_bytes)
    total = max(total_bytes or 0, available)
    hard, hot_file = (budget.hard_bytes, budget.hot_file_bytes) if budget else (0, 0)
    return Room(
        total_bytes=total,
        others_bytes=total - available,
        hard_bytes=hard,
        hot_file_bytes=hot_file,
        free_bytes=max(0, available - hard - hot_file),
        is_warm=budget.is_warm if budget else True,
        level=budget.level if budget else 0,
    )
