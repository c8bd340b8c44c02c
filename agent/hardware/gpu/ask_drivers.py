"""Drivers are asked for their GPUs in a child that ends: their libraries take memory and may crash.

`python -I -m agent.hardware.gpu.ask_drivers` prints one line of JSON for each driver, as soon as it has
answered: a crash costs one driver's answer and no other's.
"""

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from typing import IO

import msgspec

from agent.hardware.gpu import cuda, metal, vulkan
from agent.hardware.gpu.driver_answer import Asked

DRIVERS = {"CUDA": cuda.ask, "Metal": metal.ask, "Vulkan": vulkan.ask}
COMMAND = (sys.executable, "-I", "-m", "agent.hardware.gpu.ask_drivers")
TIMEOUT_S = 10.0
MAX_BYTES = 1 << 20
# A process that waits inside the kernel does not end when it is killed; we do not wait for it.
GONE_WITHIN_S = 1.0
# What the engine child sees as well, so that both find the same devices; nothing else is theirs to know.
KEPT_VARIABLES = ("PATH", "HOME", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
# Overlays and debugging layers of a desktop have no part in the answer.
NO_LAYERS = {"VK_LOADER_LAYERS_DISABLE": "~all~"}


def ask(timeout_s: float = TIMEOUT_S, *, command: tuple[str, ...] = COMMAND) -> Asked:
    """All drivers' GPUs. Blocks for `timeout_s` at most (and a second to see a child go).

    After a crash a new child asks the drivers that are left; a driver that hangs takes the time of those
    after it. Raises nothing: what is missing is in `reason`.
    """
    answers: list[Asked] = []
    waiting = list(DRIVERS)
    deadline = time.monotonic() + timeout_s
    while waiting:
        said, how = _ask_child((*command, *waiting), deadline - time.monotonic())
        answers += said[: len(waiting)]
        waiting = waiting[len(said) :]
        if waiting:
            remedy = f"try it with: {' '.join((*COMMAND, waiting[0]))}"
            answers.append(Asked(reason=f"the {waiting.pop(0)} driver {how or 'said nothing'}; {remedy}"))
        if time.monotonic() >= deadline:
            break
    reasons = [answer.reason for answer in answers if answer.reason]
    return Asked(tuple(gpu for answer in answers for gpu in answer.gpus), "; ".join(reasons))


def main() -> None:
    """The child: the drivers named on the command line (all of them without), in turn."""
    with contextlib.suppress(ValueError, OSError):  # a crash is expected here: no core file of it
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Drivers print on standard output; the answers have a descriptor of their own.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for name in [name for name in DRIVERS if name in sys.argv[1:]] or DRIVERS:
        try:
            answer = DRIVERS[name]()
        except (AttributeError, OSError, ValueError) as error:  # a library without what it should have
            answer = Asked(
                reason=f"the {name} library is not as it should be ({error}); reinstall its driver"
            )
        answers.write(msgspec.json.encode(answer) + b"\n")
        answers.flush()


def _ask_child(command: tuple[str, ...], timeout_s: float) -> tuple[list[Asked], str]:
    """What a child said before it ended, and how it ended: "" for the way it should."""
    try:
        output = _scratch()
    except OSError as error:
        return [], f"could not be asked ({error.strerror})"
    with output:  # a pipe would be held open by what a driver starts
        try:
            how = _run(command, output, timeout_s)
        except OSError as error:
            how = f"could not be asked ({error.strerror})"
        output.seek(0)
        return _read(output.read(MAX_BYTES)), how


def _scratch() -> IO[bytes]:
    """A file that nobody else sees; in memory where there are such, as every disk may be read-only.

    Raises OSError where there is room for none.
    """
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("tampu-drivers"), "w+b")
    return tempfile.TemporaryFile()


def _run(command: tuple[str, ...], output: IO[bytes], timeout_s: float) -> str:
    """How the child ended, in words; "" for the way it should. Raises OSError where it cannot be started."""
    environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.DEVNULL,
        env={**environment, **NO_LAYERS},
        start_new_session=True,
    )
    began = time.monotonic()
    try:
        return _describe(child.wait(timeout_s))
    except subprocess.TimeoutExpired:
        return f"did not answer within {time.monotonic() - began:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            if child.returncode is None:  # with what a driver has started; it has a session of its own
                os.killpg(child.pid, signal.SIGKILL)
            child.wait(GONE_WITHIN_S)


def _describe(code: int) -> str:
    if code >= 0:  # our own mistake, or a broken installation: a driver ends a process by a signal
        return f"could not be asked (exit status {code})" if code else ""
    try:
        return f"crashed ({signal.Signals(-code).name})"
    except ValueError:
        return f"ended by signal {-code}"


def _read(output: bytes) -> list[Asked]:
    """One answer a line; a line that was cut off is none, nor is what follows it."""
    answers = []
    for line in output.splitlines():
        try:
            answers.append(msgspec.json.decode(line, type=Asked))
        except (msgspec.DecodeError, UnicodeDecodeError):
            break
    return answers


if __name__ == "__main__":
    main()
