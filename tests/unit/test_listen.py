"""Whose folder the socket and the lock lie in."""

import os
from pathlib import Path

import pytest

from agent import app
from agent.api.listen import check_folders
from agent.errors import ConfigError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user")
SOMEBODY = 1


@pytest.fixture
def public(tmp_path: Path) -> Path:
    """Where everybody may make a folder."""
    folder = tmp_path / "public"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@needs_root
def test_a_folder_that_another_user_has_made_before_us_is_not_used(public: Path) -> None:
    """Nor one in it; where only its owner may make folders it may be anybody's."""
    theirs = public / "theirs"
    (theirs / "tampu").mkdir(parents=True)
    os.chown(theirs, SOMEBODY, -1)
    for folder in (theirs, theirs / "tampu"):
        with pytest.raises(ConfigError, match="theirs belongs to another user"):
            check_folders(folder)
    inner = public / "ours" / "theirs"
    inner.mkdir(parents=True)
    os.chown(inner, SOMEBODY, -1)
    check_folders(inner)


@needs_root
def test_a_link_of_another_user_is_not_followed(public: Path, tmp_path: Path) -> None:
    """To a folder of ours, say."""
    (public / "link").symlink_to(tmp_path)
    os.lchown(public / "link", SOMEBODY, -1)
    with pytest.raises(ConfigError, match="link belongs to another user"):
        check_folders(public / "link")


def test_the_lock_empties_nothing(tmp_path: Path) -> None:
    """A link in its place is refused, and a file that is there stays as it is."""
    precious, lock = tmp_path / "precious", tmp_path / "t.sock.lock"
    precious.write_text("mine")
    lock.symlink_to(precious)
    with pytest.raises(ConfigError, match="cannot be made"), app._only_instance(str(tmp_path / "t.sock")):
        pass
    assert precious.read_text() == "mine"


def test_there_is_one_daemon_for_a_socket(tmp_path: Path) -> None:
    """And another once that has ended."""
    path = str(tmp_path / "t.sock")
    for _ in range(2):
        with (
            app._only_instance(path),
            pytest.raises(ConfigError, match="another tampu runs"),
            app._only_instance(path),
        ):
            pass
