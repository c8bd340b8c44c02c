"""The engine child seen from the daemon: started, spoken to in structs, ended, and its death explained."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections import deque

from agent.engine import messages
from agent.errors import EngineProtocolError, ModelUnavailable

log = logging.getLogger(__name__)

# What the child may see of the environment: paths and locale, no secret, no override of ours.
KEPT_VARIABLES = (
    "PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "HOME",
    "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES",
    "GGML_VK_VISIBLE_DEVICES",
)
# OpenMP's default spins so long that two busy neighbours stop the engine altogether; this keeps its
# speed on a quiet box and half of it on a busy one.
SPIN_COUNT = "10000"
# glibc's own first value. Unsaid, it follows the largest block that was freed, and what llama.cpp frees after
# planning stays with the process: 13 MiB with 64 slots of SmolLM2, 10 MiB with 8 of Gemma 3 270M.
MMAP_THRESHOLD = str(128 << 10)
ENDS_WITHIN_S = 5.0
LAST_WORDS_S = 1.0
# In what a dying engine writes: the line that says why, and how much of it is kept.
TELLING = ("GGML_ASSERT", "out of memory", "OutOfDeviceMemory", "CUDA error", "failed to allocate", "what():")
TELLING_CHARS = 160

# -I: no user site, no PYTHON* variables. The number of the pipe's descriptor is added.
COMMAND = (sys.executable, "-I", "-m", "agent.engine")


def scrubbed_environment() -> dict[str, str]:
    """The child's environment."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return {**kept, "GOMP_SPINCOUNT": SPIN_COUNT, "MALLOC_MMAP_THRESHOLD_": MMAP_THRESHOLD}


class EngineProcess:
    """One child. `receive` ends with None when the child has closed the pipe, however it died."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self._decoder = messages.decoder(messages.ToDaemon)
        self._stderr: deque[str] = deque(maxlen=20)
        self._stderr_task = asyncio.create_task(self._read_stderr(), name="engine stderr")
        self._is_killed_by_us = False

    @classmethod
    async def start(cls, command: tuple[str, ...] = COMMAND) -> "EngineProcess":
        """Spawn the child; it says Hello as its first message."""
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                env=scrubbed_environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                # Ctrl-C in a terminal is for the daemon: it drains, and then ends the child itself.
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=messages.MAX_FRAME_BYTES)
        return cls(process, reader, writer)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stderr_tail(self) -> tuple[str, ...]:
        """The last lines the child wrote, oldest first."""
        return tuple(self._stderr)

    @property
    def reason(self) -> str:
        """The last line the child wrote that says why it ended; empty if none does."""
        telling = (line for line in reversed(self._stderr) if any(word in line for word in TELLING))
        return next(telling, "")[:TELLING_CHARS]

    @property
    def was_killed_by_others(self) -> bool:
        """True after it ended by a SIGKILL that was not ours: the OOM killer's, most likely."""
        return self._process.returncode == -signal.SIGKILL and not self._is_killed_by_us

    def send(self, message: messages.ToEngine) -> None:
        """Hand over a message; how many are under way is bounded by the queue of live requests."""
        self._writer.write(messages.encode(message))

    async def receive(self) -> messages.ToDaemon | None:
        """The next message, or None at the end. Raises EngineProtocolError on anything else."""
        try:
            (size,) = messages.HEADER.unpack(await self._reader.readexactly(messages.HEADER.size))
            if size > messages.MAX_FRAME_BYTES:
                raise EngineProtocolError(f"the engine announced a frame of {size} bytes")
            message: messages.ToDaemon = self._decoder.decode(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        except messages.FOREIGN as error:
            raise EngineProtocolError(
                f"the engine sent a message this daemon does not know: {error}"
            ) from error
        return message

    def kill(self) -> None:
        """End the child now; its memory comes back."""
        self._is_killed_by_us = True
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def hang_up(self) -> None:
        """Close the pipe: the child ends by itself, and `receive` ends."""
        self._writer.close()

    async def end(self) -> str:
        """Hang up, wait for the child (kill it if it lingers), and say how it ended."""
        self.hang_up()
        try:
            # Not wait_for, which loses a cancellation that comes together with the end (Python 3.11).
            async with asyncio.timeout(ENDS_WITHIN_S):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
        # Somebody else may hold the child's stderr open (a debugger that ggml_abort started).
        await asyncio.wait([self._stderr_task], timeout=LAST_WORDS_S)
        self._stderr_task.cancel()
        return describe_exit(self._process.returncode or 0)

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        while True:
            try:
                line = await self._process.stderr.readline()
            except ValueError:  # a line longer than the reader's limit: drop it
                continue
            if not line:
                return
            text = line.decode("utf-8", "replace").rstrip()[:500]
            log.info("engine says: %s", text)
            self._stderr.append(text)


def never_spoke(how: str) -> ModelUnavailable:
    """What a child that ended before its Hello means."""
    return ModelUnavailable(
        f"the engine process ended ({how}) before it could speak; if this is SIGILL,"
        " llama-cpp-python was built for another CPU: build it here with ./build/quickstart"
    )


def describe_exit(code: int) -> str:
    """`exit status 1`, or the signal's name."""
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
