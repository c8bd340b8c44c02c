"""What the installed llama.cpp is: asked of a real engine child, as the daemon would start it."""

import asyncio
import re

from msgspec import Struct

from agent import engine_process
from agent.doctor.remedies import explain
from agent.doctor.words import printable
from agent.engine.messages import PROTOCOL, Hello
from agent.engine_process import EngineProcess
from agent.errors import EngineProtocolError
from agent.findings import Finding, Severity
from agent.hardware.machine import Machine

# Importing llama.cpp from a slow SD card.
HELLO_WITHIN_S = 20.0
QUICKSTART = "Build llama-cpp-python for this box with: ./build/quickstart"
# What a CPU calls a feature -> what llama.cpp calls it. With one that its build lacks it computes slower.
FEATURES = {"avx2": "AVX2", "fma": "FMA", "avx512f": "AVX512", "dotprod": "DOTPROD", "i8mm": "MATMUL_INT8"}


class Silence(Struct, frozen=True):
    """No Hello came; `how` the child ended, and the last lines it wrote."""

    how: str
    last_words: tuple[str, ...] = ()


async def hear(command: tuple[str, ...] | None = None, timeout_s: float = HELLO_WITHIN_S) -> Hello | Silence:
    """Start an engine child, wait for its Hello, and end it again."""
    try:
        # Without a folder: this child writes nothing.
        process = await EngineProcess.start(command or engine_process.COMMAND)
    except OSError as error:
        return Silence(f"it cannot be started: {error.strerror or error}")
    trouble, message = "", None
    try:
        async with asyncio.timeout(timeout_s):
            message = await process.receive()
    except TimeoutError:
        trouble = f"it said nothing within {timeout_s:.0f} s"
        process.kill()
    except EngineProtocolError as error:
        trouble = str(error)
    finally:
        how = await process.end()
    return message if isinstance(message, Hello) else Silence(trouble or how, process.stderr_tail)


def features(hello: Hello) -> tuple[str, ...]:
    """What this build uses of the CPU, in llama.cpp's words: `AVX2 = 1 | F16C = 1`."""
    return tuple(re.findall(r"(\w+) = 1\b", hello.system))


def judge(machine: Machine, heard: Hello | Silence) -> list[Finding]:
    """Does it start, is it of this release, is it held in its sandbox, does it use this CPU."""
    if isinstance(heard, Silence):
        return [_silent(machine, heard)]
    if heard.protocol != PROTOCOL:
        return [
            Finding(
                Severity.ERROR,
                "engine_protocol",
                f"The engine speaks protocol {heard.protocol}, and this release {PROTOCOL}.",
                "Install one release of tampu, not two.",
            )
        ]
    return [*_sandbox(heard), *_unused(machine, heard)]


def _silent(machine: Machine, heard: Silence) -> Finding:
    said = " / ".join(heard.last_words[-3:])
    if known := explain(f"{heard.how}\n{said}", machine):
        return Finding(Severity.ERROR, known.code, known.what, known.remedy)
    words = f"; its last words: {printable(said)}" if said else ""
    what = f"The engine process ended before it could speak ({heard.how}){words}."
    return Finding(Severity.ERROR, "engine_silent", what, QUICKSTART)


def _sandbox(heard: Hello) -> list[Finding]:
    if heard.sandbox and not heard.sandbox.startswith("none"):
        return []
    why = heard.sandbox.removeprefix("none").removeprefix(": ") or "it says nothing of one"
    what = f"The engine process runs without its sandbox: {printable(why)}."
    if "refused" in why:
        remedy = "See what forbids Landlock here: the container's rules, or the unit's SystemCallFilter."
        return [Finding(Severity.WARNING, "sandbox_refused", what, remedy)]
    remedy = "A kernel since 5.13 with Landlock would give up for it what it never needs."
    return [Finding(Severity.NOTE, "no_sandbox", what, remedy)]


def _unused(machine: Machine, heard: Hello) -> list[Finding]:
    used = features(heard)
    if not used:  # a build that does not tell
        return []
    lacking = [
        theirs for ours, theirs in FEATURES.items() if ours in machine.cpu.features and theirs not in used
    ]
    if not lacking:
        return []
    what = f"This CPU has {', '.join(lacking)}, and the installed llama.cpp was built without."
    return [Finding(Severity.WARNING, "build_lacks_features", what, QUICKSTART)]
