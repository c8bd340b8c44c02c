"""Says when the model files or the manifest changed on disk."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from watchdog.events import (
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

from agent.catalog.added import ADDED

log = logging.getLogger(__name__)

QUIET_S = 0.5
POLL_S = 5.0
# No opens and no reads: the engine maps these files, and `verify` reads them.
CHANGES: list[type[FileSystemEvent]] = [
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
]


class FolderWatch:
    """Calls `on_change()` when a *.gguf file or added.yaml in `folder`, or `manifest`, came, went or changed.

    Called once after `quiet_s` without a further change, from a thread of this watch's own: a caller
    with an event loop hands it over with `call_soon_threadsafe`. A large file that is copied slowly
    may be announced before it is whole; `Store.verify` tells. What `on_change` raises is logged.
    """

    def __init__(
        self,
        folder: Path,
        on_change: Callable[[], None],
        *,
        manifest: Path | None = None,
        quiet_s: float = QUIET_S,
    ) -> None:
        self._folder = folder
        self._manifest = manifest
        self._on_change = on_change
        self._quiet_s = quiet_s
        self._observer: BaseObserver | None = None
        self._touched = threading.Event()
        self._stopping = threading.Event()
        self._announcer = threading.Thread(target=self._announce, name="model-watch", daemon=True)

    def start(self) -> None:
        """Begin watching; a folder that does not exist yet is created. Raises OSError when it cannot be."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            self._observer = self._observe(Observer())
        except OSError as error:  # every inotify watch or instance of this user is taken
            log.warning(
                "watching %s by looking every %.0f s (%s); raise fs.inotify.max_user_watches and _instances",
                self._folder,
                POLL_S,
                error.strerror,
            )
            self._observer = self._observe(PollingObserver(timeout=POLL_S))
        self._announcer.start()

    def stop(self) -> None:
        """End both threads; a change not announced yet is dropped. Not to be called from `on_change`."""
        self._stopping.set()
        self._touched.set()
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._announcer.join()

    def _observe(self, observer: BaseObserver) -> BaseObserver:
        handler = _Handler(self._is_watched, self._touched.set)
        folders = {self._folder} if self._manifest is None else {self._folder, self._manifest.parent}
        for folder in folders:
            observer.schedule(handler, str(folder), event_filter=CHANGES)
        try:
            observer.start()
        except OSError:
            observer.unschedule_all()  # one folder may be watched already when the other one fails
            raise
        return observer

    def _is_watched(self, path: Path) -> bool:
        is_model = path.suffix == ".gguf" or path.name == ADDED
        return path == self._manifest or (path.parent == self._folder and is_model)

    def _announce(self) -> None:
        while self._touched.wait() and not self._stopping.is_set():
            self._touched.clear()
            if self._stopping.wait(self._quiet_s):
                return
            if not self._touched.is_set():
                self._call()

    def _call(self) -> None:
        try:
            self._on_change()
        except Exception:
            log.exception("the change in %s could not be taken up", self._folder)


class _Handler(FileSystemEventHandler):
    def __init__(self, is_watched: Callable[[Path], bool], touch: Callable[[], None]) -> None:
        self._is_watched = is_watched
        self._touch = touch

    def on_any_event(self, event: FileSystemEvent) -> None:
        if any(path and self._is_watched(Path(str(path))) for path in (event.src_path, event.dest_path)):
            self._touch()
