"""One CPU as a text describes it: what cpuinfo and lscpu have in common."""

from msgspec import Struct


class Core(Struct, frozen=True, kw_only=True):
    """A hardware thread of cpuinfo (`cpus` 1), or a group of equal ones of lscpu.

    `words` are its flags as written, in lower case, with `rvv` added where a RISC-V `isa` has the
    vector letter. `vendor` is x86's vendor_id or the name of an ARM designer; `family` and `model` are
    x86's numbers, `implementer` and `part` ARM's, `mvendorid` and `marchid` RISC-V's. `siblings` and
    `package_cores` are cpuinfo's threads and cores of one package.
    """

    number: int | None = None
    cpus: int = 1
    cores: int | None = None
    name: str = ""
    vendor: str = ""
    family: int | None = None
    model: int | None = None
    implementer: int | None = None
    part: int | None = None
    architecture: str = ""
    isa: str = ""
    uarch: str = ""
    mvendorid: int | None = None
    marchid: int | None = None
    words: frozenset[str] = frozenset()
    package: str = ""
    core: str = ""
    siblings: int | None = None
    package_cores: int | None = None
    max_mhz: int | None = None
