"""A file from anywhere becomes a model of this box: checked, copied whole, recorded in added.yaml."""

import re
from pathlib import Path

from agent.catalog import added, files
from agent.catalog.entries import Model, Variant
from agent.catalog.facts import Facts, facts_of
from agent.catalog.files import Progress, quiet
from agent.catalog.gguf import COPY_AGAIN, read_header
from agent.catalog.manifest import AUTO, Manifest
from agent.catalog.putting import put
from agent.errors import ManifestError

MAX_STEM_CHARS = 190
MAX_NAME_CHARS = 64


def add_model(
    folder: Path,
    manifest: Manifest,
    source: Path,
    name: str | None = None,
    is_forced: bool = False,
    progress: Progress = quiet,
) -> tuple[Model, Path]:
    """Copy `source` into `folder` and record it; the model, and where its file is.

    `manifest` is the one without what was added. What is there already is not copied again; a file
    of the manifest's is put into its place and not recorded. `name` None: made from the file's.
    Raises ModelFileError or ManifestError with the remedy: for a file that is no model, one that
    would overwrite another (unless `is_forced`), a name that is taken, too little space.
    """
    facts = facts_of(source, read_header(source, COPY_AGAIN))
    target = folder / file_name(source.name)
    with files.in_words(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with files.exclusive(folder, progress):
            if known := added.find(manifest.models, target.name):
                _check_name(known, name)
                expected = next(each for each in known.variants if each.file == target.name)
                put(source, target, is_forced, progress, expected)
                return known, target
            name = _free_name(manifest.models + added.load_added(folder), name, target)
            sha256 = put(source, target, is_forced, progress)
            model = _model(name, target, sha256, facts)
            added.record(folder, model)
    return model, target


def file_name(name: str) -> str:
    """A file name as a manifest may have it: `My model (2).GGUF` -> `My-model-2.gguf`."""
    stem = re.sub(r"\.gguf$", "", name, flags=re.IGNORECASE)
    return f"{_plain(stem)[:MAX_STEM_CHARS].rstrip('-._') or 'model'}.gguf"


def model_name(text: str) -> str:
    """A model's name as a manifest may have it: in small letters, at most 64 characters."""
    return _plain(text).lower()[:MAX_NAME_CHARS].rstrip("-._") or "model"


def _plain(text: str) -> str:
    """Runs of anything else become one dash, and runs of dots one dot."""
    dashed = re.sub(r"[^A-Za-z0-9._]+", "-", text)
    return re.sub(r"-*([-.])[-.]*", r"\1", dashed).strip("-._")


def _free_name(models: tuple[Model, ...], name: str | None, target: Path) -> str:
    """The name, or one made of the file's. Raises ManifestError when it or the file is another model's."""
    owner = added.find(models, target.name)
    if owner and name in (None, owner.name):
        return owner.name
    if owner:
        raise ManifestError(
            f"{target.name} was added as {owner.name!r} already; leave --name away, or remove it first "
            f"with: tampu models remove {owner.name}"
        )
    wanted = model_name(target.stem) if name is None else name
    if wanted == AUTO or wanted != model_name(wanted):
        raise ManifestError(
            f"{wanted!r} cannot be a model's name; choose one of a-z 0-9 . _ - with --name, such as "
            f"{_suggested(wanted)!r}"
        )
    if any(model.name == wanted for model in models):
        raise ManifestError(f"a model is called {wanted!r} already; choose another name with --name")
    return wanted


def _suggested(wanted: str) -> str:
    """The nearest name that is one."""
    name = model_name(wanted)
    return f"{name}-1" if name == AUTO else name


def _check_name(known: Model, name: str | None) -> None:
    if name not in (None, known.name):
        raise ManifestError(
            f"this file is {known.name!r} of the manifest; leave --name away, or give the file another name"
        )


def _model(name: str, target: Path, sha256: str, facts: Facts) -> Model:
    variant = Variant(
        quant=facts.quant,
        file=target.name,
        file_bytes=target.stat().st_size,
        sha256=sha256,
        layers=facts.layers,
    )
    return Model(
        name=name,
        licence=facts.licence or "unknown",
        languages=(),
        roles=(facts.role,),
        n_ctx_train=facts.n_ctx_train,
        n_params=facts.n_params or None,
        variants=(variant,),
    )
