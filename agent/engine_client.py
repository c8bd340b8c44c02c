"""The daemon's side of the engine process: started, watched, buried, put to sleep.

The child may die at any moment. What that means for the answers it had is dispatcher.py's to say.
"""

import asyncio
import logging
import time
from collections.abc import Callable

from agent.backoff import Backoff, Retry
from agent.config import Limits
from agent.crash import Crash
from agent.dispatcher import Dispatcher
from agent.engine.messages import (
    PROTOCOL,
    Events,
    Hello,
    Load,
    Loaded,
    LoadFailed,
    Pressure,
    Stats,
    ToDaemon,
)
from agent.engine_process import COMMAND, EngineProcess, never_spoke
from agent.engine_state import EngineState
from agent.errors import (
    EngineProtocolError,
    InsufficientMemory,
    ModelUnavailable,
    RequestError,
    from_code,
)
from agent.memory_level import MemoryLevel
from agent.rules import Rules
from agent.slumber import Slumber
from agent.stall import StallWatch

log = logging.getLogger(__name__)

# No word from a working child for so long means it is stuck.
STALL_S = 60.0
# Reading the weights from a slow SD card is silent and may take minutes.
LOAD_STALL_S = 900.0
CANCEL_WITHIN_S = 2.0
RETRY_LOAD_S = 60.0
# What is being answered when the model is to be another one may take so long.
RELOAD_WITHIN_S = 30.0
ASLEEP = "asleep: the next prompt wakes the model"


class EngineClient:
    """Owns the child process. `find_model` says what a child that has said Hello should load, or raises
    the RequestError why not; `look_ahead` is called while the child starts, and may read for it what
    takes time. Both read files: they are called on a thread of their own.

    `on_state` is called, on the loop, whenever `state` or `reason` changes. After `idle_s` seconds
    without a request (0: never) the child is ended, and the next request starts it again.
    """

    def __init__(
        self,
        find_model: Callable[[Hello], Load],
        limits: Limits,
        on_state: Callable[[], None] = lambda: None,
        *,
        look_ahead: Callable[[], None] = lambda: None,
        command: tuple[str, ...] = COMMAND,
        stall_s: float = STALL_S,
        idle_s: float = 0.0,
        memory_level: MemoryLevel | None = None,
        rules: Rules | None = None,
    ) -> None:
        self.state = EngineState.STARTING
        self.reason = "the engine process is starting"
        self.state_since = time.monotonic()
        self.hello: Hello | None = None
        self.loaded: Loaded | None = None
        self.stats: Stats | None = None
        self.last_crash: Crash | None = None
        # What a crash is remembered with: set by whoever chose it.
        self.model_name = ""
        self.num_restarts = 0
        self.pressure = 0
        self.memory_level = memory_level or MemoryLevel()
        self.slumber = Slumber(idle_s)
        self.dispatcher = Dispatcher(limits, rules, self._wake, self.slumber.stir)
        self._find_model = find_model
        self._look_ahead = look_ahead
        self._on_state = on_state
        self._command = command
        self._stall_s = stall_s
        self._process: EngineProcess | None = None
        self._retry = Retry(RETRY_LOAD_S)
        self._stall = StallWatch(self._patience_s, stall_s / 10)
        self._reload = asyncio.Event()
        self._model_key: str | None = None
        self._has_spoken = False

    # ---- what fronts use ---------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def reload(self) -> None:
        """Choose and load again: this child ends once it has answered what it has, within half a minute."""
        self._reload.set()
        self._retry.now()

    def retry_load(self) -> None:
        """The model folder has changed: try again now if the last load failed."""
        self._retry.now()

    def set_pressure(self, level: int) -> None:
        """How short the box is of memory (hardware/pressure.py); the engine is told, and the next one too."""
        self.pressure = level
        if self._process and self.state is EngineState.READY:
            self._process.send(Pressure(level))

    # ---- the supervisor ----------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a child alive until cancelled; then end it."""
        backoff = Backoff()
        while True:
            born = time.monotonic()
            await self._live_once()
            if self.state is EngineState.ASLEEP:
                await self.slumber.until_woken()
                backoff.reset()
                continue
            if self.state is EngineState.RELOADING:
                continue
            self.num_restarts += 1
            if self.state is EngineState.FAILED:
                await self._retry.wait()
                backoff.reset()
                continue
            await asyncio.sleep(backoff.next_s(time.monotonic() - born))

    async def _live_once(self) -> None:
        """One child from birth to death, or to sleep."""
        self._set_state(EngineState.STARTING, "the engine process is starting")
        self.hello = self.loaded = self.stats = None
        self.dispatcher.refusal = None
        self._retry.begin()
        self._reload.clear()
        self.memory_level.begin()
        try:
            self._process = process = await EngineProcess.start(self._command)
        except OSError as error:
            self._set_state(EngineState.STARTING, f"the engine process cannot be started: {error}")
            return
        watchdog = asyncio.create_task(self._stall.guard(process), name="engine watchdog")
        sandman = asyncio.create_task(self._sleep_when_idle(process), name="engine sleep")
        reloader = asyncio.create_task(self._end_when_told(process), name="engine reload")
        failure: RequestError | None = None
        try:
            failure = await self._converse(process)
        except EngineProtocolError as error:
            log.error("%s; the engine is restarted", error)
            process.kill()
        finally:
            watchdog.cancel()
            sandman.cancel()
            reloader.cancel()
            # From here on nothing is sent, while the death is still being looked into.
            self._process = self.stats = None
            self.dispatcher.engine_is_gone()
            how = await process.end()
        if self.state is EngineState.RELOADING:
            self.dispatcher.begin_again()
        elif self.state is not EngineState.ASLEEP:
            self._bury(process, how, failure)

    async def _converse(self, process: EngineProcess) -> RequestError | None:
        """Follow the child until it closes the pipe; returns why the model cannot be had, if so."""
        # Read while the child starts: it takes as long as its imports.
        ahead = asyncio.get_running_loop().run_in_executor(None, self._look_ahead)
        ahead.add_done_callback(lambda done: done.cancelled() or done.exception())
        while (message := await process.receive()) is not None:
            self._stall.heard()
            match message:
                case Hello():
                    self._greet(message)
                    await asyncio.wait([ahead])
                    try:
                        load = await asyncio.to_thread(self._find_model, message)
                    except RequestError as error:
                        return error
                    self._note_model(load)
                    process.send(load)
                case LoadFailed():
                    return from_code(message.code, message.message)
                case _:
                    self._take(message)
        return None

    def _greet(self, hello: Hello) -> None:
        if hello.protocol != PROTOCOL:
            raise EngineProtocolError(f"the engine speaks protocol {hello.protocol}, the daemon {PROTOCOL}")
        self.hello, self._has_spoken = hello, True
        log.info("engine process %d: %s; sandbox: %s", hello.pid, hello.build, hello.sandbox or "none")
        self._set_state(EngineState.LOADING, "the model is being loaded")

    def _note_model(self, load: Load) -> None:
        """Tokens of one model mean nothing to another: answers that have begun cannot go on with it."""
        if self._model_key not in (None, load.model_key):
            self.dispatcher.fail_begun(
                ModelUnavailable("the model was changed while this was answered; send it again with a new id")
            )
        self._model_key = load.model_key

    def _take(self, message: ToDaemon) -> None:
        match message:
            case Loaded():
                self.loaded = message
                self.slumber.end_waking(is_up=True)
                self._set_state(EngineState.READY, "")
                if self.pressure:
                    self.set_pressure(self.pressure)
                if self._process:
                    self.dispatcher.num_slots = message.n_seq_max
                    self.dispatcher.engine_is_ready(self._process.send)
            case Events():
                for item in message.items:
                    self.dispatcher.take(item)
            case Stats():
                self.stats = message

    async def _sleep_when_idle(self, process: EngineProcess) -> None:
        """End the child gracefully when nothing was live for long: all its memory comes back."""
        await self.slumber.until_idle(
            lambda: self.state is not EngineState.READY or self.dispatcher.is_engine_needed
        )
        # No await from here on: a request that comes now finds a sleeper, and wakes it.
        self._process = None
        self.dispatcher.engine_is_gone()
        self.slumber.fall_asleep()
        self._set_state(EngineState.ASLEEP, ASLEEP)
        process.hang_up()

    async def _end_when_told(self, process: EngineProcess) -> None:
        """End the child gracefully for another one to load what is chosen then."""
        await self._reload.wait()
        self.dispatcher.engine_is_gone()
        await self.dispatcher.answered(RELOAD_WITHIN_S)
        self._process = None
        self._set_state(EngineState.RELOADING, "the model is being chosen and loaded again")
        process.hang_up()

    def _patience_s(self) -> float | None:
        """How long the child may be silent now."""
        if self.state is not EngineState.READY:
            return LOAD_STALL_S
        return self._stall_s if self._is_engine_busy() else None

    def _is_engine_busy(self) -> bool:
        """It has work of ours, or said so last: a hung request may have ended here by its deadline."""
        said_busy = self.stats is not None and bool(self.stats.num_running or self.stats.num_waiting)
        return said_busy or self.dispatcher.is_engine_busy

    def _bury(self, process: EngineProcess, how: str, failure: RequestError | None) -> None:
        """Note the death, and decide for every live answer whether it may go on."""
        was_ready, said_hello = self.state is EngineState.READY, self.hello is not None
        self.slumber.end_waking(is_up=False)
        is_too_small = isinstance(failure, InsufficientMemory) and self.memory_level.relent()
        if failure is not None and not is_too_small:
            self._give_up(failure)
            return
        is_for_memory = process.was_killed_by_others and self.memory_level.blame(self.pressure)
        if is_for_memory:
            how = f"{how}, out of memory"
        self.last_crash = Crash.of(
            how, self.state.value, process.reason, model=self.model_name, before=self.last_crash
        )
        log.error("the engine ended (%s); last words: %s", how, " / ".join(process.stderr_tail) or "none")
        # Somebody's SIGKILL says nothing about the child itself.
        if not (said_hello or self._has_spoken or is_for_memory or process.was_killed_by_others):
            self._give_up(never_spoke(how))
            return
        self._set_state(EngineState.STARTING, f"the engine is restarting after {how}")
        # What was killed for memory comes back with less of it: nobody's own doing.
        self.dispatcher.begin_again(
            how,
            is_somebodys_fault=was_ready and not is_for_memory,
            stuck_s=self._stall_s if self._stall.was_stuck else None,
        )

    def _give_up(self, error: RequestError) -> None:
        log.error("no answers until this is mended: %s", error.message)
        self._set_state(EngineState.FAILED, error.message)
        self.dispatcher.fail_all(error)

    # ---- state -------------------------------------------------------------------------------

    def _wake(self) -> None:
        if self.state is EngineState.ASLEEP:
            self.slumber.wake()

    def _set_state(self, state: EngineState, reason: str) -> None:
        if (state, reason) != (self.state, self.reason):
            if state is not self.state:
                self.state_since = time.monotonic()
            self.state, self.reason = state, reason
            self._on_state()
