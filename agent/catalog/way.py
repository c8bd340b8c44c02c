"""One way to run a model, and the memory that takes, worked out from the file's header alone.

The engine asks llama.cpp itself before it takes any (engine/llama/forecast.py); this is for choosing
among files that nobody has opened. Constants are fitted to three models (vocabularies of 32,000,
49,152 and 262,144 tokens; 135M to 1.1B parameters) and held against measurement by
`./build/prove memory`.
"""

from msgspec import Struct

from agent.catalog.candidate import Fit
from agent.catalog.shape import Shape

MIB = 1 << 20
F32_BYTES = 4
# A cell's column of the attention mask, for each row of a step; twice where some layers see a window only.
MASK_BYTES = 2
# The engine process with no vocabulary: Python, bindings, templates, and half-finished answers.
PROCESS_BYTES = 23 * MIB + MIB // 2
# A vocabulary's tables: for each token, and for each merge of a byte-pair one.
TOKEN_BYTES, MERGE_BYTES = 165, 77
# Pages of libraries and of the interpreter, which are mapped as the weights are.
LIBRARY_BYTES = 17 * MIB + MIB // 4
# Floats a row of a step takes while a layer is computed, per value of its width and of its
# feed-forward's.
EMBD_FLOATS, FF_FLOATS = 6.75, 2.0
# What a GPU's driver takes of the process's own memory: lavapipe 60, CUDA on a PC more.
DRIVER_BYTES = 96 * MIB
# Devices that compute on the pages of the file, by their names in ggml's registry.
MAPPING_DEVICES = ("MTL", "Metal")


class Way(Struct, frozen=True, kw_only=True):
    """See messages.Load, whose words these are. `num_slots` counts those of pinned profiles as well;
    `is_unified` says that the device's memory is the box's."""

    n_threads: int
    n_batch: int
    num_slots: int
    kv_type: str = "f16"
    is_repacked: bool = False
    device: str = ""
    n_gpu_layers: int = 0
    is_unified: bool = False


class Parts(Struct, frozen=True, kw_only=True):
    """Bytes of a way, without its KV cache. `repack_bytes` is the weights' copy, for the CPU or for a GPU
    that shares the box's memory. `device_bytes` of them, and `cell_device_bytes` of each
    cell's `cell_bytes`, lie in the GPU's own memory; `hot_bytes` of the file are read for every token."""

    weights_bytes: int
    hot_bytes: int
    repack_bytes: int
    compute_bytes: int
    fixed_bytes: int
    device_bytes: int
    cell_bytes: float
    cell_device_bytes: float

    @property
    def least_bytes(self) -> int:
        """The engine process's anonymous memory in the box's RAM, before the first cell."""
        return self.repack_bytes + self.compute_bytes + self.fixed_bytes

    @property
    def host_cell_bytes(self) -> float:
        """What a cell takes of the box's RAM."""
        return self.cell_bytes - self.cell_device_bytes

    def with_cells(self, num_cells: int) -> Fit:
        """All of it with so many KV cells, for a person and for the ledger of candidates."""
        return Fit(
            weights_bytes=self.weights_bytes,
            repack_bytes=self.repack_bytes,
            kv_bytes=round(self.cell_bytes * num_cells),
            compute_bytes=self.compute_bytes,
            fixed_bytes=self.fixed_bytes,
            device_bytes=self.device_bytes + round(self.cell_device_bytes * num_cells),
        )


def parts(shape: Shape, way: Way, repack_bytes: int = 0) -> Parts:
    """What `way` takes; `repack_bytes` is the copy it would make on this CPU (isa.py)."""
    share = offloaded_share(shape, way)
    on_device = round(shape.layers_bytes * share) + (shape.output_bytes if way.n_gpu_layers < 0 else 0)
    copied = repack_bytes if way.is_repacked and not way.n_gpu_layers else 0
    cell = shape.kv.cell_bytes(way.kv_type) + MASK_BYTES * shape.num_masks * way.n_batch
    fixed = PROCESS_BYTES + TOKEN_BYTES * shape.num_vocabulary + MERGE_BYTES * shape.num_merges
    fixed += DRIVER_BYTES if way.n_gpu_layers else 0
    # Where memory is one, what lies on the device is memory of ours; Metal computes on the mapped file.
    is_mapped = way.device.startswith(MAPPING_DEVICES)
    own = on_device if way.n_gpu_layers and not way.is_unified else 0
    if way.is_unified and not is_mapped:
        copied = on_device
    return Parts(
        weights_bytes=shape.weights_bytes,
        hot_bytes=max(0, shape.read_bytes - (0 if is_mapped else max(copied, on_device))),
        repack_bytes=copied,
        compute_bytes=compute_bytes(shape, way),
        fixed_bytes=fixed,
        device_bytes=own,
        cell_bytes=cell,
        cell_device_bytes=0.0 if way.is_unified else shape.kv.cell_bytes(way.kv_type) * share,
    )


def offloaded_share(shape: Shape, way: Way) -> float:
    """The part of the layers that is computed on the device, 0 to 1."""
    if way.n_gpu_layers < 0:
        return 1.0
    return min(1.0, way.n_gpu_layers / max(shape.num_layers, 1))


def compute_bytes(shape: Shape, way: Way) -> int:
    """Buffers of a step: the logits of each slot, once more while they are computed or a layer's rows."""
    logits = way.num_slots * shape.num_vocabulary * F32_BYTES
    rows = way.n_batch * F32_BYTES
    width = max(shape.n_embd, shape.n_attn)
    layer = int(rows * (EMBD_FLOATS * width + FF_FLOATS * shape.n_ff))
    return logits + max(layer, logits + rows * shape.n_embd)
