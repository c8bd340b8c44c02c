"""The daemon: builds every part, and owns start order, readiness, drain and exit.

The only module that knows all the others.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from agent import crash, logs, systemd
from agent.answer import Answer
from agent.api.listen import FOLDER_MODE, bind_socket, check_folders
from agent.catalog.watch import FolderWatch
from agent.config import Config
from agent.counts import Counts
from agent.engine.messages import Hello, Load
from agent.engine_client import EngineClient
from agent.engine_process import COMMAND
from agent.engine_state import EngineState
from agent.errors import ConfigError, ModelUnavailable, RequestError
from agent.hardware.clock import believed_time
from agent.hardware.memory import ROOT
from agent.journal.journal import Journal
from agent.memory_level import MemoryLevel
from agent.memory_watch import MemoryWatch
from agent.model_finder import ModelFinder
from agent.operations import Operations
from agent.places import state_folder
from agent.request import FinishReason
from agent.rules import Rules
from agent.status import ModelIdentity, StatusSource
from agent.vitals import VitalsSource

if TYPE_CHECKING:
    from agent.api.http import HttpServer
    from agent.mqtt.front import MqttFront

log = logging.getLogger(__name__)

DRAIN_S = 10.0
LAST_FRAMES_S = 3.0
# Names of the journal's notes: a conversation is "session/<client>/<its name>".
SESSION_NOTES = "session/"
CRASH_NOTE = "crash"
# Notes besides conversations, and what one has besides a conversation's text.
OTHER_NOTES = 16
NOTE_OVERHEAD_BYTES = 4096


def main(config: Config, engine_command: tuple[str, ...] | None = None, root: Path = ROOT) -> int:
    """Run the daemon until SIGTERM or SIGINT. Raises ConfigError and other TampuErrors at start.

    `root` is where the box's memory and cores are read.
    """
    logs.set_up(config.log)
    with _only_instance(config.api.socket):
        sock = bind_socket(config.api.socket, config.api.group)
        # The engine may write there and nowhere else: profiles it has computed.
        command = engine_command or (*COMMAND, str(state_folder() / "profiles"))
        return asyncio.run(App(config, sock, command, root).run())


class App:
    """One daemon from start to exit."""

    def __init__(
        self, config: Config, sock: socket.socket, engine_command: tuple[str, ...], root: Path = ROOT
    ) -> None:
        self._config = config
        self._root = root
        self._stop = asyncio.Event()
        level = MemoryLevel(root)
        self._finder = ModelFinder(config, lambda: self._engine.pid, lambda: level.level, root)
        self._engine = EngineClient(
            self._find_model,
            config.limits,
            self._on_engine_state,
            look_ahead=self._finder.look_ahead,
            command=engine_command,
            idle_s=config.engine.idle.process_s,
            memory_level=level,
            rules=Rules(config),
        )
        self._status = StatusSource(config.node, self._engine)
        limits = config.limits
        self._journal = Journal(
            config.journal,
            longest_ttl_s=limits.ttl_s,
            on_findings=self._publish_state,
            root=root,
            max_notes=limits.sessions + OTHER_NOTES,
            max_note_bytes=(limits.sessions + OTHER_NOTES) * (limits.session_bytes + NOTE_OVERHEAD_BYTES),
        )
        self._status.watch(lambda: self._journal.findings)
        self._vitals = VitalsSource(lambda: self._engine.pid, root)
        self._counts = Counts()
        self._noted_crash: crash.Crash | None = None
        self._sock = sock
        self._front: MqttFront | None = None
        self._memory_watch = MemoryWatch(self._on_pressure, root)
        self._watch: FolderWatch | None = None
        self._is_ready = False

    async def run(self) -> int:
        """Serve until told to stop, then drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            # The loop's handler makes a signal wake it; under a flood of other wake-ups it would lose the
            # signal itself, so that is taken here.
            loop.add_signal_handler(number, _nothing)
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._on_signal))
        # The child first: it imports and loads while the fronts are imported here.
        engine = asyncio.create_task(self._engine.run(), name="engine supervisor")
        front, http = await self._build_fronts()
        await self._recover(front)
        self._front = front
        self._status.watch(front.findings)
        self._start_watch(loop)
        await http.start()
        log.info("node %s; socket %s", self._config.node, self._config.api.socket)
        tasks = [
            engine,
            asyncio.create_task(front.run(), name="mqtt"),
            asyncio.create_task(systemd.feed_watchdog(self._what_is_dead), name="watchdog"),
            asyncio.create_task(self._memory_watch.run(), name="memory watch"),
        ]
        if self._config.metrics.textfile:
            tasks.append(asyncio.create_task(self._write_metrics(), name="metrics"))
        stop = asyncio.create_task(self._stop.wait(), name="stop")
        done, _ = await asyncio.wait([stop, *tasks[:2]], return_when=asyncio.FIRST_COMPLETED)
        if stop not in done:
            log.critical("a part of the daemon ended by itself", exc_info=next(iter(done)).exception())
        await self._shut_down(tasks, front, http)
        return 0 if stop in done else 1

    async def _build_fronts(self) -> "tuple[MqttFront, HttpServer]":
        """Import and build them; the imports take a fifth of a second, on a thread beside the loop."""
        await asyncio.to_thread(_import_fronts)
        from agent.api.front import build_app
        from agent.api.http import HttpServer
        from agent.mqtt.front import MqttFront

        config = self._config
        api = build_app(
            self._engine.dispatcher, self._status, self._counts, config.limits, dict(config.profiles)
        )
        engine = self._engine
        operations = Operations(
            config, self._finder, self._status, lambda: engine.hello, engine.reload, self._root
        )
        front = MqttFront(config, engine, self._status, self._journal, self._vitals, self._counts, operations)
        return front, HttpServer(api, self._sock)

    async def _recover(self, front: "MqttFront") -> None:
        """Take up conversations and requests where an earlier daemon left them."""
        found = await self._journal.start()
        sessions = self._engine.dispatcher.sessions
        sessions.on_change, sessions.wall = self._note_session, believed_time
        for name, kept in self._journal.notes(SESSION_NOTES).items():
            client, _, session = name.removeprefix(SESSION_NOTES).partition("/")
            sessions.restore((client, session), kept)
        if crash_note := self._journal.notes(CRASH_NOTE).get(CRASH_NOTE):
            self._engine.last_crash = self._noted_crash = crash.decode(crash_note)
        if found:
            log.info("the journal holds %d requests of an earlier start", len(found))
        front.recover(found)

    def _note_crash(self) -> None:
        """The last crash outlives this daemon: it may be what ends it."""
        last = self._engine.last_crash
        if last is not None and last is not self._noted_crash:
            self._noted_crash = last
            self._journal.note(CRASH_NOTE, crash.encode(last))

    def _what_is_dead(self) -> str:
        """Which thread is gone that the daemon cannot do without; "" when all are there."""
        if self._front is not None and not self._front.is_alive:
            return "the thread that speaks to the broker is gone"
        return "" if self._journal.is_alive() else "the journal's thread does not answer"

    async def _write_metrics(self) -> None:
        metrics = self._config.metrics
        from agent.exposition import render
        from agent.metrics import families
        from agent.textfile import Textfile

        def text() -> str:
            return render(families(self._status.read(), self._counts, self._vitals.read()))

        textfile = Textfile(str(metrics.textfile), metrics.every_s, text)
        self._status.watch(textfile.findings)
        await textfile.run()

    def _note_session(self, key: tuple[str, str], kept: bytes | None, answer: Answer | None) -> None:
        """Write a conversation down, with the result that has changed it where that is in the journal."""
        of = (answer.request.client, answer.request.id) if answer else None
        is_known = of is not None and self._journal.peek(*of) is not None
        self._journal.note(f"{SESSION_NOTES}{key[0]}/{key[1]}", kept, of=of if is_known else None)

    async def _shut_down(
        self, tasks: list[asyncio.Task[None]], front: "MqttFront", http: "HttpServer"
    ) -> None:
        """Let running answers end for a while, cut the rest short, then take the parts down in turn."""
        systemd.notify(STOPPING="1", STATUS="stopping")
        log.info("stopping; %d requests under way", self._engine.dispatcher.num_live)
        self._status.is_stopping = True
        self._engine.dispatcher.close_door()
        front.stop()
        await self._engine.dispatcher.drained(DRAIN_S)
        self._engine.dispatcher.cancel_all(FinishReason.CANCELLED)
        await self._engine.dispatcher.drained(LAST_FRAMES_S)
        await front.close()
        await http.stop(LAST_FRAMES_S)
        await self._journal.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._watch:
            self._watch.stop()

    def _on_signal(self) -> None:
        """The first asks to drain; a second one does not want to wait for that."""
        if self._stop.is_set():
            self._engine.dispatcher.cancel_all(FinishReason.CANCELLED)
        self._stop.set()

    # ---- the model ---------------------------------------------------------------------------

    def _find_model(self, hello: Hello) -> Load:
        """What the engine should load now. Raises ModelUnavailable or InsufficientMemory."""
        try:
            placement = self._finder.find(hello)
        except RequestError:
            raise
        except Exception as error:
            # A bug of ours in choosing is no reason to leave the broker: the next try may meet another world.
            log.exception("no model could be chosen")
            raise ModelUnavailable(
                f"no model could be chosen ({error!r}); name one with models.name, and report the log"
            ) from error
        for reason in placement.why:
            log.info("model %s %s: %s", placement.name, placement.quant, reason)
        self._status.model = ModelIdentity(
            placement.name, placement.quant, placement.sha256, placement.runs, placement.why
        )
        self._engine.model_name = f"{placement.name} {placement.quant}"
        self._status.budget = placement.budget
        self._memory_watch.is_cold = not placement.budget.is_warm
        return placement.load

    def _start_watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """A model that arrives later is taken without a restart. A folder that cannot be watched is said."""
        models = self._config.models
        watch = FolderWatch(
            Path(models.folder),
            lambda: _tell(loop, self._engine.retry_load),
            manifest=Path(models.manifest) if models.manifest else None,
        )
        try:
            watch.start()
        except OSError as error:
            log.warning("%s is not watched for new models: %s", models.folder, error)
            return
        self._watch = watch

    def _on_pressure(self, level: int, sentence: str) -> None:
        self._status.shortage = sentence
        self._engine.set_pressure(level)
        self._publish_state()

    def _publish_state(self) -> None:
        if self._front is not None:
            self._front.publish_state()

    def _on_engine_state(self) -> None:
        engine = self._engine
        self._note_crash()
        log.info("engine: %s%s", engine.state.value, f" ({engine.reason})" if engine.reason else "")
        self._publish_state()
        systemd.notify(STATUS=engine.reason or f"answering as {self._config.node}")
        # Ready means that requests are taken; the model may still be loading.
        if not self._is_ready and engine.state is not EngineState.STARTING:
            self._is_ready = True
            systemd.notify(READY="1")


@contextlib.contextmanager
def _only_instance(socket_path: str) -> Iterator[None]:
    """Hold a lock beside the socket: two daemons would steal each other's socket and node name."""
    path = Path(f"{socket_path}.lock")
    try:
        path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        check_folders(path.parent)
        # Nothing is written to it, nor through a link.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = open(os.open(path, flags, 0o600), "r+b", buffering=0)  # noqa: SIM115 - closed below
    except OSError as error:
        raise ConfigError(f"api.socket: {path} cannot be made: {error.strerror}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another tampu runs with the socket {socket_path}; stop it or set api.socket"
            ) from None
        yield


def _import_fronts() -> None:
    """Have the modules of both fronts, and all they stand on, in memory."""
    import agent.api.front
    import agent.api.http
    import agent.mqtt.front  # noqa: F401


def _nothing() -> None:
    """See where it is used."""


def _tell(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    loop.call_soon_threadsafe(function)
