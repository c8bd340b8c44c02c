"""New model files are noticed without a restart."""

import errno
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.catalog import watch
from agent.catalog.watch import FolderWatch

pytestmark = pytest.mark.timeout(30)

QUIET_S = 0.1
SOON_S = 5.0


class Calls:
    """Counts the calls, and waits for them with a bound."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = threading.Condition()

    def __call__(self) -> None:
        with self._changed:
            self.count += 1
            self._changed.notify_all()

    def reach(self, count: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.count >= count, SOON_S)

    def stay(self, count: int) -> bool:
        time.sleep(5 * QUIET_S)
        return self.count == count


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def watching(folder: Path, tmp_path: Path, calls: Calls) -> Iterator[FolderWatch]:
    (tmp_path / "etc").mkdir()
    running = FolderWatch(folder, calls, manifest=tmp_path / "etc" / "manifest.yaml", quiet_s=QUIET_S)
    running.start()
    yield running
    running.stop()


@pytest.mark.usefixtures("watching")
def test_a_folder_that_does_not_exist_yet_is_created_and_watched(folder: Path, calls: Calls) -> None:
    """The first model may come after the daemon."""
    (folder / "new.gguf").write_bytes(b"x")

    assert calls.reach(1)


@pytest.mark.usefixtures("watching")
def test_a_file_that_is_renamed_into_place_is_noticed(folder: Path, tmp_path: Path, calls: Calls) -> None:
    """As `fetch` does inside the folder, and `mv` from outside it."""
    (folder / ".new.gguf.part").write_bytes(b"x")
    assert calls.stay(0)

    (folder / ".new.gguf.part").rename(folder / "new.gguf")
    assert calls.reach(1)

    (tmp_path / "other.gguf").write_bytes(b"x")
    (tmp_path / "other.gguf").rename(folder / "other.gguf")
    assert calls.reach(2)


@pytest.mark.usefixtures("watching")
def test_a_hard_link_and_a_removal_are_noticed(folder: Path, tmp_path: Path, calls: Calls) -> None:
    """A model that goes changes the choice too."""
    (tmp_path / "cached.gguf").write_bytes(b"x")
    (folder / "new.gguf").hardlink_to(tmp_path / "cached.gguf")
    assert calls.reach(1)

    (folder / "new.gguf").unlink()
    assert calls.reach(2)


@pytest.mark.usefixtures("watching")
def test_a_change_of_the_manifest_is_noticed(tmp_path: Path, calls: Calls) -> None:
    """It may lie in another folder; other files beside it do not count."""
    (tmp_path / "etc" / "other.yaml").write_text("x")
    assert calls.stay(0)

    (tmp_path / "etc" / "manifest.yaml").write_text("version: 1")
    assert calls.reach(1)


@pytest.mark.usefixtures("watching")
def test_a_model_that_gets_a_name_is_noticed(folder: Path, calls: Calls) -> None:
    """`tampu models add` writes the list of what was added last, and in one step."""
    (folder / ".added.yaml.part").write_text("version: 1")
    assert calls.stay(0)

    (folder / ".added.yaml.part").rename(folder / "added.yaml")
    assert calls.reach(1)


@pytest.mark.usefixtures("watching")
def test_many_changes_in_a_row_are_not_many_calls(folder: Path, calls: Calls) -> None:
    """A file that is being copied is not announced block by block."""
    with (folder / "new.gguf").open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(b"x")
            time.sleep(0.01)
    assert calls.reach(1)
    time.sleep(5 * QUIET_S)
    assert calls.count < 5  # one, but for stalls of a busy machine


@pytest.mark.usefixtures("watching")
def test_reading_a_model_or_writing_another_file_is_no_change(folder: Path, calls: Calls) -> None:
    """Else verifying a file would announce it again, for ever."""
    (folder / "new.gguf").write_bytes(b"x")
    assert calls.reach(1)

    (folder / "new.gguf").read_bytes()
    (folder / "notes.txt").write_text("x")
    assert calls.stay(1)


def test_after_stop_nothing_is_called_and_no_thread_is_left(folder: Path, calls: Calls) -> None:
    """Also when a change was just seen."""
    before = set(threading.enumerate())
    running = FolderWatch(folder, calls, quiet_s=QUIET_S)
    running.start()
    (folder / "new.gguf").write_bytes(b"x")

    running.stop()

    assert calls.stay(0)
    assert set(threading.enumerate()) == before


def test_without_inotify_the_folder_is_looked_at_now_and_then(
    folder: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All watches of the user may be taken by other programs: a warning, not a failure."""

    class Exhausted(watch.Observer):  # type: ignore[misc, valid-type]
        def on_thread_start(self) -> None:
            raise OSError(errno.ENOSPC, "inotify watch limit reached")

    monkeypatch.setattr(watch, "Observer", Exhausted)
    monkeypatch.setattr(watch, "POLL_S", QUIET_S)
    running = FolderWatch(folder, calls, quiet_s=QUIET_S)
    with caplog.at_level(logging.WARNING):
        running.start()
    try:
        (folder / "new.gguf").write_bytes(b"x")
        assert calls.reach(1)
    finally:
        running.stop()
    assert "inotify watch limit reached" in caplog.text


def test_an_error_in_the_callback_does_not_end_the_watch(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the next change is announced."""
    calls = Calls()

    def fail() -> None:
        calls()
        raise RuntimeError("no")

    running = FolderWatch(folder, fail, quiet_s=QUIET_S)
    running.start()
    try:
        (folder / "a.gguf").write_bytes(b"x")
        assert calls.reach(1)
        (folder / "b.gguf").write_bytes(b"x")
        assert calls.reach(2)
    finally:
        running.stop()
    assert "could not be taken up" in caplog.text


def test_a_folder_that_cannot_be_created_is_an_error_and_stop_still_works(tmp_path: Path) -> None:
    """The caller decides what a missing folder means."""
    (tmp_path / "file").write_text("")
    running = FolderWatch(tmp_path / "file" / "models", lambda: None)

    with pytest.raises(OSError, match=os.strerror(errno.ENOTDIR)):
        running.start()

    running.stop()
