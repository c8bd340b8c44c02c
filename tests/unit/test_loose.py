"""Files put into the models folder by hand: their headers tell what they are, or why they are refused."""

import os
from pathlib import Path

import pytest

from agent.catalog import shelf as shelf_module
from agent.catalog.facts import facts_of, printable
from agent.catalog.gguf import read_header
from agent.catalog.loose import LooseFile, loose_files
from agent.catalog.manifest import IN_CHECKOUT, Manifest, load_manifest
from agent.catalog.quant import FILE_TYPES, num_params, quant_name
from agent.catalog.shelf import Shelf
from agent.errors import ModelFileError
from tests.support.gguf_builder import F32_TENSOR, MODEL_KEYS, Q4_1_TENSOR, STRING, U32, Key, Tensor, build

Q4_K_TENSOR = 12
WHOLE = build(MODEL_KEYS)


@pytest.fixture
def manifest() -> Manifest:
    return load_manifest(IN_CHECKOUT)


def changed(*keys: Key) -> tuple[Key, ...]:
    """The usual keys, some of them with another value; None drops one."""
    named = {key.name: key for key in (*MODEL_KEYS, *keys)}
    return tuple(key for key in named.values() if key.value is not None)


def only(folder: Path, manifest: Manifest) -> LooseFile:
    (file,) = loose_files(folder, manifest)
    return file


def test_a_file_put_there_by_hand_is_told_by_its_header(tmp_path: Path, manifest: Manifest) -> None:
    """Title, architecture, quantisation, sizes, and whether it brings a template."""
    (tmp_path / "tiny.gguf").write_bytes(WHOLE)

    assert only(tmp_path, manifest) == LooseFile(
        file="tiny.gguf",
        name="Tiny Model",
        file_bytes=len(WHOLE),
        architecture="llama",
        quant="Q4_1",
        n_params=8 + 32 * 4,
        n_ctx_train=2048,
        layers=2,
        has_chat_template=True,
        role="chat",
        licence="mit",
    )


def test_only_what_nobody_else_has_is_loose(tmp_path: Path, manifest: Manifest) -> None:
    """Not the manifest's files, not what is being written, not other files; sorted by name."""
    for name in ("b.gguf", "a.gguf", ".c.gguf", "notes.txt", "d.gguf.part", manifest.model().preferred.file):
        (tmp_path / name).write_bytes(WHOLE)

    assert [file.file for file in loose_files(tmp_path, manifest)] == ["a.gguf", "b.gguf"]
    assert loose_files(tmp_path / "none", manifest) == ()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>", "not a GGUF file, it begins with b'<htm'; copy it again from where it came from"),
        (WHOLE[:-40], "the file ends before its tensors do"),
        (build(MODEL_KEYS, tensors=()), "a vocabulary without weights; name a whole model"),
        (build(changed(Key("general.type", STRING, "adapter"))), "an adapter, no model by itself"),
        (
            build(changed(Key("general.architecture", STRING, "clip"))),
            "a projector for pictures or sound, no",
        ),
        (build(changed(Key("general.architecture", STRING, None))), "it does not say its architecture"),
        (
            build(changed(Key("llama.context_length", STRING, "many"))),
            "it does not say its llama.context_len",
        ),
        (build(changed(Key("llama.block_count", U32, 0))), "it does not say its llama.block_count; convert"),
        (build(changed(Key("llama.pooling_type", U32, 4))), "a model that ranks; name one that chats or emb"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(
    tmp_path: Path, manifest: Manifest, content: bytes, reason: str
) -> None:
    """One sentence with the next step, and the folder's other files are looked at all the same."""
    path = tmp_path / "wrong.gguf"
    path.write_bytes(content)
    (tmp_path / "right.gguf").write_bytes(WHOLE)

    right, wrong = loose_files(tmp_path, manifest)

    assert right.refusal == ""
    assert (wrong.file, wrong.file_bytes) == ("wrong.gguf", len(content))
    assert wrong.refusal.startswith(f"{path}: {reason}")


@pytest.mark.parametrize("name", ["my model.gguf", "-x.gguf", "a..gguf", "\x1b[2J.gguf", "m\udcff.gguf"])
def test_a_file_name_that_no_manifest_could_have_is_refused(
    tmp_path: Path, manifest: Manifest, name: str
) -> None:
    """And does nothing to the terminal it is printed on."""
    try:
        (tmp_path / name).write_bytes(WHOLE)
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system has no such names")

    file = only(tmp_path, manifest)

    assert file.refusal.endswith("only A-Z a-z 0-9 . _ - may be in its name; rename the file")
    assert (file.file + file.refusal).isprintable()


def test_links_to_nowhere_and_folders_are_refused(tmp_path: Path, manifest: Manifest) -> None:
    """They are in the folder, so they are in the list."""
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "link.gguf").symlink_to(tmp_path / "nowhere")

    folder, link = loose_files(tmp_path, manifest)

    assert folder.refusal.endswith("not a regular file; name a GGUF file")
    assert link.refusal.endswith("no such model file; name one that is there")


def test_a_title_does_nothing_to_a_terminal() -> None:
    """It is one short line, whatever the file says."""
    assert printable("Big\x1b[2J\n Model\u202e" + "x" * 100) == ("Big [2J Model " + "x" * 100)[:64]


@pytest.mark.parametrize("architecture", ["bert", "nomic-bert", "gemma-embedding"])
def test_a_model_of_the_kind_of_bert_embeds(tmp_path: Path, manifest: Manifest, architecture: str) -> None:
    """Its file need not say so."""
    sizes = (Key(f"{architecture}.{name}", U32, 12) for name in ("block_count", "context_length"))
    (tmp_path / "a.gguf").write_bytes(
        build(changed(Key("general.architecture", STRING, architecture), *sizes))
    )

    assert only(tmp_path, manifest).role == "embed"


@pytest.mark.parametrize(("pooling", "role"), [(0, "chat"), (1, "embed"), (2, "embed"), (3, "embed")])
def test_a_model_that_pools_embeds(tmp_path: Path, pooling: int, role: str) -> None:
    """A decoder made for embeddings says how its vectors are made one."""
    path = tmp_path / "a.gguf"
    path.write_bytes(build(changed(Key("llama.pooling_type", U32, pooling))))

    assert facts_of(path, read_header(path)).role == role


def header_of(tmp_path: Path, file_type: int | None, tensors: list[Tensor]):
    path = tmp_path / "model.gguf"
    path.write_bytes(build(changed(Key("general.file_type", U32, file_type)), tensors))
    return read_header(path)


F32 = Tensor("blk.0.attn_norm.weight", (64, 4), F32_TENSOR, 1024)
Q4_1 = Tensor("blk.0.attn_q.weight", (64, 2), Q4_1_TENSOR, 80)
Q4_K = Tensor("blk.0.attn_k.weight", (256, 2), Q4_K_TENSOR, 288)
LARGE_TABLE = Tensor("token_embd.weight", (64, 64), 8, 4352)


@pytest.mark.parametrize(
    ("file_type", "tensors", "name"),
    [
        (15, [LARGE_TABLE, Q4_K, F32], "Q4_K_M"),  # as the file says, whatever most of it is
        (19, [Q4_1], "IQ2_XXS"),
        (None, [LARGE_TABLE, Q4_1], "Q4_1"),  # by the layers, not by the vocabulary
        (None, [Q4_1, Q4_K], "Q4_K_M"),  # llama.cpp's guess
        (99, [Q4_1], "Q4_1"),
        (1, [LARGE_TABLE, Q4_1], "Q4_1"),  # said to be F16, and is not
        (15, [F32], "F32"),
        (None, [LARGE_TABLE], "Q8_0"),
        (15, [], "Q4_K_M"),
        (None, [], "UNKNOWN"),
    ],
)
def test_the_quantisation_is_named(
    tmp_path: Path, file_type: int | None, tensors: list[Tensor], name: str
) -> None:
    """By the file, unless its tensors show that it cannot be; else by the type of most weights in layers."""
    assert quant_name(header_of(tmp_path, file_type, tensors)) == name


def test_weights_are_counted(tmp_path: Path) -> None:
    """All values of all tensors."""
    assert num_params(header_of(tmp_path, 3, [F32, Q4_1])) == 64 * 4 + 64 * 2


def test_every_quantisation_can_stand_in_a_manifest() -> None:
    """No two numbers mean the same, and none of the names is refused."""
    assert len(set(FILE_TYPES.values())) == len(FILE_TYPES)
    assert all(name.replace("_", "").isalnum() and name.isupper() for name in FILE_TYPES.values())


def test_a_header_is_read_once_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking at the folder again costs nothing; a file copied over it is seen."""
    path = tmp_path / "model.gguf"
    path.write_bytes(WHOLE)
    read: list[Path] = []
    real = shelf_module.read_header
    monkeypatch.setattr(
        shelf_module, "read_header", lambda path, remedy: read.append(path) or real(path, remedy)
    )
    shelf = Shelf()

    assert shelf.header(path) is shelf.header(path)
    assert len(read) == 1
    path.write_bytes(build())
    os.utime(path, ns=(1, 1))
    assert "general.name" not in shelf.header(path).metadata
    assert len(read) == 2


def test_a_refusal_is_remembered_too_and_a_file_that_goes_is_missed(tmp_path: Path) -> None:
    """What cannot be read is not read again and again; what is gone is not there."""
    path, shelf = tmp_path / "model.gguf", Shelf()
    path.write_bytes(WHOLE[:-40])

    for _ in range(2):
        with pytest.raises(ModelFileError, match="ends before its tensors do"):
            shelf.header(path)
    path.write_bytes(WHOLE)
    assert shelf.header(path).num_tensors == 2
    path.unlink()
    with pytest.raises(ModelFileError, match="no such model file"):
        shelf.header(path)


def test_the_shelf_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was asked for longest ago goes first."""
    monkeypatch.setattr(shelf_module, "MAX_TENSORS", 4)
    paths = [tmp_path / f"{number}.gguf" for number in range(3)]
    for path in paths:
        path.write_bytes(WHOLE)
    shelf = Shelf()
    first, second = shelf.header(paths[0]), shelf.header(paths[1])
    assert shelf.header(paths[0]) is first

    shelf.header(paths[2])

    assert shelf.header(paths[0]) is first
    assert shelf.header(paths[1]) is not second
