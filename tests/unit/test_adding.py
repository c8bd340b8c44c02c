"""A file from anywhere becomes a model of this box: whole, known by a name, and over no other one unasked."""

import hashlib
import json
import os
from pathlib import Path

import msgspec
import pytest
import yaml

from agent.catalog import files, putting
from agent.catalog.added import ADDED, load_added, load_catalog
from agent.catalog.adding import add_model, file_name, model_name
from agent.catalog.manifest import IN_CHECKOUT, Manifest, load_manifest
from agent.catalog.removing import remove_model
from agent.catalog.store import FileState, Store
from agent.cli import main
from agent.errors import ManifestError, ModelFileError, TampuError
from tests.support.gguf_builder import MODEL_KEYS, STRING, Key, build

CONTENT = build(MODEL_KEYS)
OTHER = build([*MODEL_KEYS, Key("general.author", STRING, "somebody")])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """A manifest with one model, whose only file is `known.gguf` and holds CONTENT."""
    model = load_manifest(IN_CHECKOUT).model()
    variant = msgspec.structs.replace(
        model.preferred, file="known.gguf", file_bytes=len(CONTENT), sha256=sha256(CONTENT)
    )
    return Manifest(tmp_path / "m.yaml", (msgspec.structs.replace(model, name="known", variants=(variant,)),))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file somewhere else, with a name no manifest could have."""
    path = tmp_path / "Tiny Model (Q4).GGUF"
    path.write_bytes(CONTENT)
    return path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


def refusal(folder: Path, manifest: Manifest, source: Path, name: str | None = None) -> str:
    with pytest.raises(TampuError) as refused:
        add_model(folder, manifest, source, name)
    return str(refused.value)


def test_a_file_is_copied_whole_and_known_by_a_name(folder: Path, manifest: Manifest, source: Path) -> None:
    """Its name is made of the file's; what the header says is recorded, and nothing else."""
    steps: list[tuple[int, int, str]] = []

    model, path = add_model(folder, manifest, source, progress=lambda *step: steps.append(step))

    assert path == folder / "Tiny-Model-Q4.gguf"
    assert path.read_bytes() == CONTENT
    assert names(folder) == {path.name, ADDED}
    assert (model.name, model.licence, model.roles, model.n_ctx_train) == (
        "tiny-model-q4",
        "mit",
        ("chat",),
        2048,
    )
    assert (model.preferred.quant, model.preferred.layers, model.n_params) == ("Q4_1", 2, 136)
    assert model.preferred.sha256 == sha256(CONTENT)
    assert steps[-1] == (len(CONTENT), len(CONTENT), "copying")


def test_what_was_added_is_a_model_like_the_others(folder: Path, source: Path, manifest: Manifest) -> None:
    """It is found by name, its file is verified to the last byte, and the remedy is one that helps."""
    add_model(folder, manifest, source, "tiny")
    catalog = load_catalog(IN_CHECKOUT, folder)
    store, variant = Store(folder), catalog.model("tiny").preferred

    assert catalog.added == ("tiny",)
    assert store.status(variant) is FileState.PRESENT
    assert store.verify(variant).num_tensors == 2
    store.locate(variant).write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(ModelFileError, match=f"not {variant.sha256}; copy it again from where it came from"):
        store.verify(variant)


def test_a_folder_without_a_list_has_the_manifest_alone(folder: Path) -> None:
    """Most boxes."""
    assert load_catalog(IN_CHECKOUT, folder) == load_manifest(IN_CHECKOUT)


def test_a_wrong_list_is_named(folder: Path) -> None:
    """It is a manifest, with a manifest's rules."""
    folder.mkdir()
    (folder / ADDED).write_text("version: 1\nmodels: [{name: x}]")

    with pytest.raises(ManifestError, match=f"^{folder / ADDED}: models"):
        load_catalog(IN_CHECKOUT, folder)


def test_the_same_file_again_is_not_copied_again(folder: Path, manifest: Manifest, source: Path) -> None:
    """And keeps the name it has."""
    model, path = add_model(folder, manifest, source, "tiny")
    before = path.stat()

    assert add_model(folder, manifest, source) == (model, path)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert load_added(folder) == (model,)


def test_a_file_put_there_by_hand_is_added_where_it_lies(folder: Path, manifest: Manifest) -> None:
    """Nothing is copied; now it has a name and a hash."""
    folder.mkdir()
    path = folder / "tiny.gguf"
    path.write_bytes(CONTENT)

    model, target = add_model(folder, manifest, path)

    assert (model.name, target, model.preferred.sha256) == ("tiny", path, sha256(CONTENT))


def test_another_file_is_not_replaced_unasked(folder: Path, manifest: Manifest, source: Path) -> None:
    """Of the same size or not; with force it is, and the record with it."""
    model, path = add_model(folder, manifest, source, "tiny")
    for content in (OTHER, CONTENT[:-1] + b"x"):
        source.write_bytes(content)
        assert refusal(folder, manifest, source) == (
            f"{path}: another file is there already; say --force to replace it, or give the file another name"
        )
        assert path.read_bytes() == CONTENT

    replaced, _ = add_model(folder, manifest, source, is_forced=True)

    assert path.read_bytes() == source.read_bytes()
    assert load_added(folder) == (replaced,)
    assert replaced.preferred.sha256 != model.preferred.sha256


def test_nothing_is_written_through_a_link(
    folder: Path, manifest: Manifest, source: Path, tmp_path: Path
) -> None:
    """Neither where the file goes, nor where it is written until it is whole."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"mine")
    folder.mkdir()
    for name in ("Tiny-Model-Q4.gguf", ".Tiny-Model-Q4.gguf.part", f".{ADDED}.part"):
        (folder / name).symlink_to(outside)

    assert "a symbolic link is there already; say --force" in refusal(folder, manifest, source)
    _, path = add_model(folder, manifest, source, is_forced=True)

    assert outside.read_bytes() == b"mine"
    assert not path.is_symlink()
    assert path.read_bytes() == CONTENT


def test_a_source_that_is_a_link_is_followed(folder: Path, manifest: Manifest, source: Path) -> None:
    """What is copied is the file."""
    link = source.with_name("link.gguf")
    link.symlink_to(source)

    _, path = add_model(folder, manifest, link)

    assert (path.is_symlink(), path.read_bytes()) == (False, CONTENT)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no such model file; name one that is there"),
        (b"hello", "not a GGUF file, it begins with b'hell'; copy it again from where it came from"),
        (CONTENT[:-40], "the file ends before its tensors do"),
        (build(MODEL_KEYS, tensors=()), "a vocabulary without weights"),
    ],
)
def test_what_is_no_model_is_refused_before_anything_is_written(
    folder: Path, manifest: Manifest, source: Path, content: bytes | None, reason: str
) -> None:
    """The header is looked at first."""
    source.unlink()
    if content is not None:
        source.write_bytes(content)

    assert refusal(folder, manifest, source).startswith(f"{source}: {reason}")
    assert not folder.exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_copy_that_ends_early_leaves_nothing(
    folder: Path, manifest: Manifest, source: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Ctrl-C or a full disk: no half file, no record, and the next try succeeds."""
    monkeypatch.setattr(files, "CHUNK_BYTES", 100)

    def fail(done: int, total: int, label: str) -> None:
        if done > 200:
            raise error

    with pytest.raises((KeyboardInterrupt, ModelFileError)):
        add_model(folder, manifest, source, progress=fail)

    assert names(folder) == set()
    assert add_model(folder, manifest, source)[1].read_bytes() == CONTENT


def test_what_a_killed_copy_left_makes_room_for_any_other(
    folder: Path, manifest: Manifest, source: Path
) -> None:
    """A gigabyte that no command shows, after a power cut; what is not ours stays."""
    folder.mkdir()
    (folder / ".large.gguf.part").write_bytes(CONTENT)
    (folder / ".notes.part").write_bytes(b"mine")
    _, path = add_model(folder, manifest, source)
    assert names(folder) == {path.name, ADDED, ".notes.part"}


def test_a_source_that_changes_while_it_is_copied_is_refused(
    folder: Path, manifest: Manifest, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody is still writing it; what was copied is looked at again."""
    real = putting.files.require_space

    def cut(target: Path, needed_bytes: int) -> None:
        real(target, needed_bytes)
        os.truncate(source, len(CONTENT) - 40)

    monkeypatch.setattr(putting.files, "require_space", cut)

    assert "the file ends before its tensors do" in refusal(folder, manifest, source)
    assert names(folder) == set()


def test_too_little_space_is_told_before_a_byte_is_copied(
    folder: Path, manifest: Manifest, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How much is needed, how much is free, and what to do."""
    usage = files.shutil.disk_usage(source.parent)
    nearly_full = usage._replace(free=len(CONTENT) - 1)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: nearly_full)

    assert "MB are needed" in refusal(folder, manifest, source)
    assert names(folder) == set()


def test_a_file_of_the_manifest_is_put_into_its_place(
    folder: Path, manifest: Manifest, tmp_path: Path
) -> None:
    """From a stick, where there is no network; it needs no record, and must be the very file."""
    path = tmp_path / "known.gguf"
    path.write_bytes(OTHER)
    assert f"{path}: not the known.gguf of the manifest" in refusal(folder, manifest, path)
    assert names(folder) == set()
    path.write_bytes(CONTENT)
    assert "leave --name away" in refusal(folder, manifest, path, "mine")

    model, target = add_model(folder, manifest, path)

    assert (model.name, target.read_bytes()) == ("known", CONTENT)
    assert names(folder) == {"known.gguf"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("known", "a model is called 'known' already; choose another name with --name"),
        (
            "auto",
            "'auto' cannot be a model's name; choose one of a-z 0-9 . _ - with --name, such as 'auto-1'",
        ),
        ("My Model", "'My Model' cannot be a model's name"),
        ("", "'' cannot be a model's name"),
        ("../up", "'../up' cannot be a model's name"),
    ],
)
def test_a_name_that_is_taken_or_none_is_refused(
    folder: Path, manifest: Manifest, source: Path, name: str, reason: str
) -> None:
    """Before anything is copied."""
    assert refusal(folder, manifest, source, name).startswith(reason)
    assert names(folder) == set()


def test_a_file_has_one_name(folder: Path, manifest: Manifest, source: Path) -> None:
    """The same file under two would be deleted under both."""
    add_model(folder, manifest, source, "tiny")

    assert "was added as 'tiny' already" in refusal(folder, manifest, source, "small")


@pytest.mark.parametrize(
    ("given", "file", "model"),
    [
        ("a.gguf", "a.gguf", "a"),
        ("My model (2).GGUF", "My-model-2.gguf", "my-model-2"),
        ("Qwen2.5-0.5B-Q4_K_M.gguf", "Qwen2.5-0.5B-Q4_K_M.gguf", "qwen2.5-0.5b-q4_k_m"),
        ("a..b.gguf", "a.b.gguf", "a.b"),
        ("...gguf", "model.gguf", "model"),
        ("..", "model.gguf", "model"),
        ("größe.bin", "gr-e.bin.gguf", "gr-e.bin"),
        ("x" * 300 + ".gguf", "x" * 190 + ".gguf", "x" * 64),
    ],
)
def test_names_are_made_plain(given: str, file: str, model: str) -> None:
    """Whatever a file was called, its name in the folder is one a manifest may have."""
    assert file_name(given) == file
    assert model_name(file.removesuffix(".gguf")) == model


def test_removing_deletes_the_file_and_the_record(folder: Path, manifest: Manifest, source: Path) -> None:
    """By the model's name or the file's; the list goes with the last of them."""
    _, first = add_model(folder, manifest, source, "first")
    source.write_bytes(OTHER)
    _, second = add_model(folder, manifest, source.rename(source.with_name("b.gguf")), "second")

    assert remove_model(folder, manifest, "first") == (first,)
    assert [model.name for model in load_added(folder)] == ["second"]
    assert remove_model(folder, manifest, "b.gguf") == (second,)
    assert names(folder) == set()


def test_a_model_of_the_manifest_is_removed_by_who_is_sure(folder: Path, manifest: Manifest) -> None:
    """It is what `auto` means; it can be fetched again."""
    folder.mkdir()
    (folder / "known.gguf").write_bytes(CONTENT)

    with pytest.raises(ModelFileError, match=r"known is a model of the manifest .*; say --yes to delete"):
        remove_model(folder, manifest, "known")

    assert remove_model(folder, manifest, "known", is_sure=True) == (folder / "known.gguf",)
    assert remove_model(folder, manifest, "known", is_sure=True) == ()


def test_a_file_put_there_by_hand_is_removed_and_a_link_goes_alone(
    folder: Path, manifest: Manifest, source: Path
) -> None:
    """What a link points to belongs to somebody else."""
    folder.mkdir()
    (folder / "link.gguf").symlink_to(source)

    assert remove_model(folder, manifest, "link.gguf") == (folder / "link.gguf",)
    assert source.exists()


@pytest.mark.parametrize("name", ["none", "none.gguf", "../outside.gguf", ".lock", ADDED])
def test_only_what_is_a_model_here_is_removed(folder: Path, manifest: Manifest, name: str) -> None:
    """No other file, here or elsewhere."""
    folder.mkdir()
    outside = folder.parent / "outside.gguf"
    outside.write_bytes(CONTENT)

    for where in (folder, folder / "none"):
        with pytest.raises(ModelFileError, match="no model and no model file is called"):
            remove_model(where, manifest, name)

    assert outside.exists()


def tampu(capsys: pytest.CaptureFixture[str], folder: Path, *words: object) -> str:
    """Run `tampu models` in a folder; what it prints. Fails when the command does."""
    code = main.main(["--set", f"models.folder={folder}", "models", *map(str, words)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    return printed.out


def test_the_command_adds_lists_verifies_and_removes(
    folder: Path, source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way a person goes, read by a program."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    added = json.loads(tampu(capsys, folder, "add", source, "--name", "tiny", "--json"))
    (folder / "loose.gguf").write_bytes(OTHER)
    (folder / "wrong.gguf").write_bytes(b"wrong")
    rows = {row["name"]: row for row in json.loads(tampu(capsys, folder, "list", "--json"))}
    verified = json.loads(tampu(capsys, folder, "verify", "tiny", "--json"))
    removed = json.loads(tampu(capsys, folder, "remove", "tiny", "--json"))

    assert (added["name"], added["path"]) == ("tiny", str(folder / "Tiny-Model-Q4.gguf"))
    assert added["sha256"] == verified["sha256"] == sha256(CONTENT)
    assert [(row["kind"], row["state"]) for row in rows.values()] == [
        ("manifest", "missing"),
        ("added", "present"),
        ("loose", "present"),
        ("loose", "refused"),
    ]
    assert rows["loose.gguf"]["roles"] == ["chat"]
    assert "not a GGUF file" in rows["wrong.gguf"]["refusal"]
    assert removed["paths"] == [added["path"]]
    assert names(folder) == {"loose.gguf", "wrong.gguf"}


def test_the_command_says_in_words_what_was_done(
    folder: Path, source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And how to use it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder))
    (source.parent / "wrong.gguf").write_bytes(b"wrong")

    said = tampu(capsys, folder, "add", source)
    (folder / "wrong.gguf").write_bytes(b"wrong")
    listed = tampu(capsys, folder, "list")

    assert said == (
        f"tiny-model-q4 Q4_1 is in {folder / 'Tiny-Model-Q4.gguf'} (0.0 MB)\n"
        "use it with: models.name: tiny-model-q4\n"
    )
    assert "tiny-model-q4         Q4_1  0.0 MB  present chat added    mit" in listed
    assert f"refused: {folder / 'wrong.gguf'}: not a GGUF file" in listed
    assert tampu(capsys, folder, "remove", "wrong.gguf") == f"{folder / 'wrong.gguf'} is deleted\n"


def test_the_command_prints_the_schema_and_refuses_with_exit_1(
    folder: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is printed is JSON; what is refused is one sentence."""
    assert json.loads(tampu(capsys, folder, "schema"))["$defs"]["Model"]

    assert main.main(["models", "remove", "none", "--folder", str(folder)]) == 1
    assert capsys.readouterr().err.startswith(f"tampu: {folder}: no model and no model file is called 'none'")


def test_the_list_is_a_manifest_for_people(folder: Path, manifest: Manifest, source: Path) -> None:
    """Without the keys nobody has given."""
    add_model(folder, manifest, source, "tiny")

    (model,) = yaml.safe_load((folder / ADDED).read_bytes())["models"]

    assert set(model) == {"name", "licence", "languages", "roles", "n_ctx_train", "n_params", "variants"}
    assert set(model["variants"][0]) == {"quant", "file", "file_bytes", "sha256", "layers"}
