"""A folder of model files that exist only as headers: the weights are holes, the sizes are right."""

from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.catalog.entries import ChatTemplate, Model, Role, Variant
from agent.catalog.ggml_types import GGML_TYPES
from agent.catalog.gguf import GgufHeader, TensorInfo
from agent.catalog.manifest import Manifest
from agent.catalog.placement import Placement, Resources, place
from agent.catalog.shelf import Shelf
from agent.catalog.store import Store
from agent.config import Config, Engine, Models

BY_NAME = {kind.name: kind for kind in GGML_TYPES.values()}
# The type most weights of a quant have.
WEIGHTS_OF = {"Q4_K_M": "Q4_K", "Q4_K_S": "Q4_K", "Q5_K_M": "Q5_K", "IQ3_M": "IQ3_S", "IQ2_M": "IQ2_S"}
TEMPLATE = ChatTemplate(format="chatml", end_of_turn="<|im_end|>")


class Size(NamedTuple):
    """How large a model is: about `12 * layers * width ** 2` parameters."""

    layers: int = 24
    width: int = 1024
    vocabulary: int = 32_000


SMALL = Size()


class Headers(Shelf):
    """Has the headers of files that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: dict[str, GgufHeader] = {}

    def header(self, path: Path, remedy: str = "") -> GgufHeader:
        return self.by_name[path.name] if path.name in self.by_name else super().header(path)


class Folder:
    """Models in order of preference, each with quants; every file is there unless it is left out."""

    def __init__(self, folder: Path, **models: tuple[str, ...]) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.headers = Headers()
        self._models: list[Model] = []
        for name, quants in models.items():
            self.add(name, quants)

    def add(
        self,
        name: str,
        quants: tuple[str, ...],
        size: Size = SMALL,
        *,
        default: bool = False,
        roles: tuple[Role, ...] = ("chat",),
    ) -> None:
        variants = tuple(self._variant(name, quant, size) for quant in quants)
        self._models.append(
            Model(
                name=name,
                default=default,
                licence="none",
                languages=("en",),
                roles=roles,
                n_ctx_train=32768,
                chat_template=TEMPLATE,
                variants=variants,
            )
        )

    def without_template(self, file: str) -> None:
        """As a base model's file is."""
        header = self.headers.by_name[file]
        metadata = {key: value for key, value in header.metadata.items() if "template" not in key}
        self.headers.by_name[file] = msgspec.structs.replace(header, metadata=metadata)

    def remove(self, file: str) -> None:
        (self.folder / file).unlink()

    def place(
        self,
        resources: Resources,
        engine: Engine = Engine(),  # noqa: B008
        *,
        is_brief: bool = False,
        **models: object,
    ) -> Placement:
        """What placement makes of it."""
        wanted = Models(folder=str(self.folder), **models)  # type: ignore[arg-type]
        config = Config(models=wanted, engine=engine)
        manifest = Manifest(self.folder / "manifest.yaml", tuple(self._models))
        return place(config, manifest, Store(self.folder), resources, self.headers, is_brief=is_brief)

    def _variant(self, name: str, quant: str, size: Size) -> Variant:
        header = header_of(quant, size)
        file = f"{name}-{quant}.gguf"
        num_bytes = header.data_offset + sum(tensor.num_bytes for tensor in header.tensors)
        with (self.folder / file).open("wb") as hole:
            hole.truncate(num_bytes)
        self.headers.by_name[file] = header
        return Variant(
            quant=quant,
            file=file,
            file_bytes=num_bytes,
            sha256=f"{len(self.headers.by_name):064x}",
            layers=size.layers,
            kv_bytes_per_token=size.layers * 2 * size.width // 4 * 2,
        )


def header_of(quant: str, size: Size = SMALL) -> GgufHeader:
    """A header as the converter writes it: a quarter of the heads have keys and values of their own."""
    kind = WEIGHTS_OF.get(quant, quant)
    width = size.width
    tensors = [tensor("token_embd.weight", kind, (width, size.vocabulary))]
    for layer in range(size.layers):
        tensors.append(tensor(f"blk.{layer}.attn.weight", kind, (width, 3 * width)))
        tensors.append(tensor(f"blk.{layer}.ffn.weight", kind, (width, 9 * width)))
    return GgufHeader(
        version=3,
        metadata={
            "general.architecture": "llama",
            "llama.block_count": size.layers,
            "llama.embedding_length": width,
            "llama.feed_forward_length": 3 * width,
            "llama.context_length": 32768,
            "llama.attention.head_count": width // 64,
            "llama.attention.head_count_kv": width // 256,
            "tokenizer.chat_template": "{{ messages }}",
        },
        lengths={"tokenizer.ggml.tokens": size.vocabulary},
        tensors=tuple(tensors),
        alignment=32,
        data_offset=1 << 20,
    )


def tensor(name: str, kind: str, shape: tuple[int, ...]) -> TensorInfo:
    block = BY_NAME[kind]
    num_values = shape[0] * shape[1]
    return TensorInfo(name, kind, shape, 0, num_values // block.block_values * block.block_bytes)
