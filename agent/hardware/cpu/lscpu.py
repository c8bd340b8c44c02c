"""The output of lscpu, in any language it is known to speak, and of `lscpu -J`.

Lines `Field: value`. Since util-linux 2.35 a box with several kinds of cores has `Model name:` and all
that follows it once per kind. Architecture, number of CPUs and flags are known by their values where
the field's name is foreign.
"""

import re

from msgspec import Struct

from agent.hardware.cpu.core import Core
from agent.hardware.cpu.features import isa_words
from agent.hardware.kernel import MACHINE
from agent.hardware.text import MAX_CPUS, clean, cpu_list, number

JSON_FIELD = re.compile(r'"field"\s*:\s*"([^"]*)"\s*,\s*"data"\s*:\s*"([^"]*)"')
LIST = re.compile(r"\d+(-\d+)?(,\d+(-\d+)?)*")
# Words that a line of flags has and no other line: x86, ARM, 32-bit ARM, s390, LoongArch.
FLAGS = ({"fpu", "tsc"}, {"fp", "asimd"}, {"half", "thumb"}, {"esan3", "zarch"}, {"cpucfg", "fpu"})
# Ours -> as lscpu says it in English, German, French, Spanish, Italian, Portuguese, Polish, Dutch,
# Russian, Ukrainian, Czech, Chinese and Japanese, in lower case.
FIELDS: dict[str, tuple[str, ...]] = {
    "cpus": ("cpu(s)", "processeur(s)", "procesador(es)", "процессор(ы)", "cpu", "cp u(s)"),
    "offline": ("off-line cpu(s) list",),
    "vendor": (
        "vendor id", "anbieterkennung", "herstellerkennung", "identifiant constructeur",
        "identifiant de constructeur", "id de fabricante", "id del vendedor", "id fornitore", "id produttore",
        "id de fornecedor", "id do fornecedor", "id producenta", "producent-id", "id прроизводителя",
        "id производителя", "id výrobce", "厂商 id", "供应商 id", "ベンダー id", "ベンダid",
    ),
    "name": (
        "model name", "modellname", "nom de modèle", "nombre del modelo", "nome del modello",
        "nome do modelo", "nazwa modelu", "modelnaam", "имя модели", "назва моделі", "název modelu",
        "型号名称", "型号名", "モデル名",
    ),
    "family": (
        "cpu family", "prozessorfamilie", "famille de processeur", "familia de cpu", "famiglia cpu",
        "família da cpu", "rodzina cpu", "cpu-familie", "семейство цпу", "cpu 系列", "cpu ファミリー",
    ),
    "model": ("model", "modell", "modèle", "modelo", "modello", "модель", "型号", "モデル"),
    "threads": (
        "thread(s) per core", "thread(s) pro kern", "thread(s) par cœur",
        "hilo(s) de procesamiento por núcleo",
        "thread per core", "thread(s) por núcleo", "wątków na rdzeń", "draad/draden per kern",
        "потоков на ядро", "每个核的线程数", "コアあたりのスレッド数",
    ),
    "cores": (
        "core(s) per socket", "core(s) per cluster", "kern(e) pro sockel", "cœur(s) par socket",
        "núcleo(s) por «socket»", "core per socket", "núcleo(s) por soquete", "rdzeni na gniazdo",
        "kern(en) per socket", "ядер на сокет", "每个座的核数", "ソケットあたりのコア数",
    ),
    "sockets": (
        "socket(s)", "cluster(s)", "sockel", "«socket(s)»", "socket", "soquete(s)", "gniazda", "сокетов",
        "座", "ソケット数",
    ),
    "max_mhz": (
        "cpu max mhz", "maximale taktfrequenz der cpu", "vitesse maximale du processeur en mhz",
        "cpu mhz máx.", "cpu mhz max", "cpu mhz máx", "maks. mhz cpu", "cpu 最大 mhz", "cpu 最大 mhz",
    ),
    "isa": ("isa",),
}  # fmt: skip
BY_FIELD = {word: field for field, words in FIELDS.items() for word in words}

Fields = dict[str, str]


class Lscpu(Struct, frozen=True, kw_only=True):
    """`machine` is the architecture as `uname -m` writes it; `groups` the kinds of cores; `offline` CPUs
    are there and switched off."""

    machine: str = ""
    cpus: int = 0
    offline: int = 0
    groups: tuple[Core, ...] = ()


def parse(text: str) -> Lscpu:
    """What the text says; no groups where it is no output of lscpu. Raises nothing."""
    pairs = _pairs(text)
    machine = next((value for _, value in pairs if MACHINE.fullmatch(value)), "")
    groups = _groups(pairs)
    if not machine or not groups:
        return Lscpu(machine=machine)
    cpus = _cpus(pairs)
    return Lscpu(
        machine=machine,
        cpus=cpus,
        offline=len(cpu_list(_first(pairs, "offline"))),
        groups=tuple(_group(group, groups[0], cpus, alone=len(groups) == 1) for group in groups),
    )


def _pairs(text: str) -> list[tuple[str, str]]:
    """Field, ours where it is known, and value."""
    found = JSON_FIELD.findall(text) if '"lscpu"' in text else []
    found = found or [(name, value) for name, _, value in (line.partition(":") for line in text.splitlines())]
    pairs = [(" ".join(name.lower().replace(":", " ").split()), value.strip()) for name, value in found]
    return [(BY_FIELD.get(name, name), "" if value == "-" else value) for name, value in pairs if name]


def _first(pairs: list[tuple[str, str]], field: str) -> str:
    return next((value for name, value in pairs if name == field), "")


def _cpus(pairs: list[tuple[str, str]]) -> int:
    """CPUs that are on. In a foreign language: the first whole number, which the list of them follows."""
    names = [name for name, _ in pairs]
    known = [names.index("cpus")] if "cpus" in names else range(len(pairs))
    for at in known:
        count = number(pairs[at][1])
        if count is not None and 0 < count <= MAX_CPUS:
            listed = pairs[at + 1][1] if at + 1 < len(pairs) else ""
            # The number counts those that are switched off as well.
            online = len(cpu_list(listed)) if LIST.fullmatch(listed) else 0
            return min(online or count, count)
    return 1


def _groups(pairs: list[tuple[str, str]]) -> list[Fields]:
    groups: list[Fields] = [{}]
    for name, value in pairs:
        is_next = name in {"name", "vendor"} and name in groups[-1] and "flags" in groups[-1]
        if is_next:
            groups.append({})
        words = set(value.lower().split())
        if name in {"flags", "features"} or any(known <= words for known in FLAGS):
            groups[-1].setdefault("flags", value)
        elif name in FIELDS:
            groups[-1].setdefault(name, value)
    return [group for group in groups if group.keys() & {"flags", "name", "vendor"}]


def _group(fields: Fields, first: Fields, cpus: int, *, alone: bool) -> Core:
    threads = max(1, number(fields.get("threads", "")) or 1)
    cores = (number(fields.get("cores", "")) or 0) * (number(fields.get("sockets", "")) or 1)
    # With CPUs switched off, or in a virtual machine, the product may be another box's.
    if alone:
        least, count = max(1, cpus // threads), cpus
        cores = cores if least <= cores <= cpus else least
    else:
        cores = min(max(1, cores), cpus)
        count = min(cores * threads, cpus)
    return Core(
        cpus=count,
        cores=cores,
        name=clean(fields.get("name", "")),
        vendor=clean(fields.get("vendor", "") or first.get("vendor", "")),
        family=number(fields.get("family", "")),
        model=number(fields.get("model", "")),
        isa=clean(fields.get("isa", "")),
        words=frozenset(fields.get("flags", "").lower().split()) | isa_words(fields.get("isa", "")),
        max_mhz=_mhz(fields.get("max_mhz", "")),
    )


def _mhz(value: str) -> int | None:
    """The whole MHz in `2265,6001`: some locales write a comma."""
    return number(value.replace(",", ".").partition(".")[0])
