"""What is loaded and how: by what fits, by what runs well, by taste; and every loser knows why."""

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.catalog.isa import repack_bytes, repacked_types
from agent.catalog.measurements import Bandwidth, Measurements, Speed
from agent.catalog.placement import Resources
from agent.catalog.shape import shape_of
from agent.catalog.taste import quality_of, taste_rank
from agent.catalog.way import Way, compute_bytes
from agent.config import Engine
from agent.engine.messages import Device
from agent.errors import InsufficientMemory, ModelUnavailable
from tests.support.model_folder import Folder, Size, header_of

MIB, GIB = 1 << 20, 1 << 30
PI_4 = ("neon",)
PI_5 = ("neon", "dotprod", "fp16")
PC = ("sse2", "sse4_2", "avx", "f16c", "fma", "avx2")
BIG = Size(layers=32, width=4096)
CARD = Device(name="CUDA0", description="a card", kind="gpu", total_bytes=8 * GIB, free_bytes=8 * GIB)
ORIN = Device(name="CUDA0", description="Orin", kind="igpu", total_bytes=7 * GIB, free_bytes=6 * GIB)


def box(available: int, features: tuple[str, ...] = PC, **more: object) -> Resources:
    return Resources(available, 4, features=features, **more)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "models")


# ---- which quant ---------------------------------------------------------------------------------


def test_four_bits_are_the_default_taste(folder: Folder) -> None:
    """Also where eight would fit: they read half as much for each token."""
    folder.add("a", ("Q8_0", "Q4_0", "Q4_K_M", "Q5_K_M", "IQ2_XXS", "F16"))
    placement = folder.place(box(16 * GIB))
    assert placement.quant == "Q4_K_M"
    reasons = {candidate.quant: candidate.reason for candidate in placement.candidates}
    assert reasons["Q8_0"] == "Q4_K_M is the better use of this box's memory"
    assert reasons["IQ2_XXS"] == "IQ2_XXS is slow on every CPU and loses the most"
    assert [candidate.is_chosen for candidate in placement.candidates] == [True, *[False] * 5]


def test_a_cpu_gets_the_four_bits_it_has_a_faster_layout_for(folder: Folder) -> None:
    """Q4_1 has none anywhere; without dotprod nothing has."""
    folder.add("a", ("Q4_1", "Q4_0"))
    assert folder.place(box(16 * GIB, PI_5)).quant == "Q4_0"
    assert repacked_types(PI_4) == {}
    assert taste_rank("Q4_K_M", frozenset({"Q4_0"})) > taste_rank("Q4_0", frozenset({"Q4_0"}))


def test_lookup_quants_come_last_on_a_cpu(folder: Folder) -> None:
    """Not before something larger that stays in memory; but rather than reading the disk for ever."""
    folder.add("a", ("IQ2_XXS", "Q8_0"), BIG)
    assert folder.place(box(16 * GIB)).quant == "Q8_0"
    assert folder.place(box(4 * GIB)).quant == "IQ2_XXS"
    assert folder.place(box(4 * GIB, disk_bytes_s=30e9), speed_floor=1).quant == "Q8_0"


def test_a_variant_may_be_asked_for(folder: Folder) -> None:
    """And one that is not there is an error that names those that are."""
    folder.add("a", ("Q4_K_M", "Q8_0"))
    assert folder.place(box(16 * GIB), variant="Q8_0").quant == "Q8_0"
    with pytest.raises(ModelUnavailable, match="no variant Q2_K, only Q4_K_M, Q8_0; choose another"):
        folder.place(box(16 * GIB), variant="Q2_K")


# ---- which model ---------------------------------------------------------------------------------


def test_the_first_model_that_runs_well_is_taken(folder: Folder) -> None:
    """The order of the manifest is the maker's; a box too small for the first takes the next."""
    folder.add("large", ("Q4_K_M",), BIG)
    folder.add("small", ("Q4_K_M",))
    assert folder.place(box(16 * GIB)).name == "large"
    placement = folder.place(box(2 * GIB))
    assert placement.name == "small"
    assert (
        "does not stay in memory" in placement.candidates[1].reason
        or "floor" in placement.candidates[1].reason
    )


def test_the_default_comes_before_the_order(folder: Folder) -> None:
    """`auto` means it, as long as it is there."""
    folder.add("first", ("Q4_K_M",))
    folder.add("second", ("Q4_K_M",), default=True)
    assert folder.place(box(16 * GIB)).name == "second"
    folder.remove("second-Q4_K_M.gguf")
    placement = folder.place(box(16 * GIB))
    assert placement.name == "first"
    assert "is missing" in placement.candidates[-1].reason


@pytest.mark.parametrize("variant", ["auto", "Q4_K_M"])
def test_a_base_model_is_taken_only_by_its_name(folder: Folder, variant: str) -> None:
    """Every prompt would end in an error, while another model that is here could answer."""
    folder.add("base", ("Q4_K_M",), default=True)
    folder.add("chat", ("Q4_K_M",))
    folder.without_template("base-Q4_K_M.gguf")
    placement = folder.place(box(16 * GIB), variant=variant)
    assert placement.name == "chat"
    assert "no chat template" in placement.candidates[-1].reason
    assert folder.place(box(16 * GIB), name="base").name == "base"


def test_the_speed_floor_is_the_owners(folder: Folder) -> None:
    """What is slower is taken only where nothing else fits."""
    folder.add("large", ("Q4_K_M",), BIG)
    folder.add("small", ("Q4_K_M",))
    assert folder.place(box(16 * GIB, PI_4)).name == "small"
    assert folder.place(box(16 * GIB, PI_4), speed_floor=0.1).name == "large"
    assert folder.place(box(16 * GIB, PI_4), name="large").name == "large"


def test_an_empty_folder_names_the_next_step(folder: Folder) -> None:
    """Every missing file, and how to get one."""
    folder.add("a", ("Q4_K_M",))
    folder.remove("a-Q4_K_M.gguf")
    with pytest.raises(
        ModelUnavailable, match=r"a-Q4_K_M.gguf is missing; fetch it with: tampu models fetch"
    ):
        folder.place(box(16 * GIB))


def test_what_fits_nowhere_is_refused_with_numbers(folder: Folder) -> None:
    """The preferred file's."""
    folder.add("a", ("Q4_K_M",), BIG)
    with pytest.raises(InsufficientMemory, match="MiB of anonymous memory at least"):
        folder.place(box(150 * MIB))


def test_a_refusal_names_what_the_most_frugal_way_needs(folder: Folder) -> None:
    """Not what a copy of the weights would take besides."""
    folder.add("a", ("Q4_K_M",), BIG)
    with pytest.raises(InsufficientMemory) as caught:
        folder.place(box(150 * MIB, PC))
    assert caught.value.detail["needed_bytes"] < repack_bytes(header_of("Q4_K_M", BIG), PC)


# ---- how it is run -------------------------------------------------------------------------------


def test_a_faster_layout_is_made_where_there_is_room_for_both(folder: Folder) -> None:
    """The copy is anonymous memory: with less the weights stay in the file."""
    folder.add("a", ("Q4_K_M",), BIG)
    copied = repack_bytes(header_of("Q4_K_M", BIG), PC)
    assert copied > 3 * GIB
    roomy, tight = folder.place(box(16 * GIB)), folder.place(box(6 * GIB))
    assert (roomy.load.is_repacked, tight.load.is_repacked) == (True, False)
    assert roomy.candidates[0].fit is not None
    assert roomy.candidates[0].fit.repack_bytes == copied
    assert tight.budget.is_warm
    assert not folder.place(box(16 * GIB), Engine(repack="off")).load.is_repacked
    assert not folder.place(box(16 * GIB, PI_4)).load.is_repacked


def test_heads_wider_than_the_model_need_wider_buffers() -> None:
    """Gemma 3 270M is 640 wide and its heads are 1024: 3297 KiB for 64 rows, as llama.cpp says."""
    header = header_of("Q4_K_M", Size(layers=18, width=640, vocabulary=262_144))
    metadata = header.metadata | {"llama.attention.head_count": 4, "llama.feed_forward_length": 2048}
    plain, wide = (
        compute_bytes(
            shape_of(msgspec.structs.replace(header, metadata=metadata | more)),
            Way(n_threads=2, n_batch=64, num_slots=1),
        )
        for more in ({}, {"llama.attention.key_length": 256})
    )
    assert plain < 3297 << 10 <= wide


def test_a_gpu_with_room_is_used(folder: Folder) -> None:
    """All of the model, the output with it; `off` keeps to the CPU."""
    folder.add("a", ("Q4_K_M",), BIG)
    with_card = box(16 * GIB, devices=(CARD,))
    load = folder.place(with_card).load
    assert (load.device, load.n_gpu_layers, load.is_repacked) == ("CUDA0", -1, False)
    assert folder.place(with_card).runs == "all layers on CUDA0, 4 threads, KV cache f16"
    load = folder.place(with_card, Engine(gpu="off")).load
    assert (load.device, load.n_gpu_layers) == ("", 0)


def test_a_gpu_that_does_not_tell_its_memory_is_taken_at_its_word(folder: Folder) -> None:
    """Some drivers report none at all; a wish is not refused for that."""
    folder.add("a", ("Q4_K_M",), BIG)
    silent = Device(name="Vulkan0", description="a card", kind="gpu", total_bytes=0, free_bytes=0)
    assert folder.place(box(16 * GIB, devices=(silent,)), Engine(gpu="all")).load.n_gpu_layers == -1


def test_a_format_this_models_cache_cannot_have_is_refused(folder: Folder) -> None:
    """Heads of 80 values are no whole number of blocks; llama.cpp would refuse the context."""
    folder.add("a", ("Q4_K_M",), Size(width=1280))
    header = folder.headers.by_name["a-Q4_K_M.gguf"]
    header.metadata["llama.attention.head_count"] = 16
    with pytest.raises(ModelUnavailable, match="its KV cache cannot be q8_0, only f16"):
        folder.place(box(16 * GIB), Engine(kv_type="q8_0"))


def test_a_model_that_embeds_is_no_model_to_chat_with(folder: Folder) -> None:
    """By name, too."""
    folder.add("vectors", ("Q4_K_M",), roles=("embed",))
    with pytest.raises(ModelUnavailable, match="vectors makes embeddings and does not chat"):
        folder.place(box(16 * GIB), name="vectors")


def test_a_small_card_gets_the_layers_that_fit(folder: Folder) -> None:
    """And the CPU computes the rest."""
    folder.add("a", ("Q4_K_M",), BIG)
    small = Device(name="Vulkan0", description="a card", kind="gpu", total_bytes=2 * GIB, free_bytes=2 * GIB)
    placement = folder.place(box(16 * GIB, devices=(small,)))
    assert 0 < placement.load.n_gpu_layers < BIG.layers
    assert placement.candidates[0].fit is not None
    assert 0 < placement.candidates[0].fit.device_bytes < 2 * GIB
    assert any("layers on Vulkan0" in reason for reason in placement.why)
    assert folder.place(box(16 * GIB, devices=(small,)), Engine(gpu=3)).load.n_gpu_layers == 3


def test_on_unified_memory_the_gpu_shares_the_budget(folder: Folder) -> None:
    """What is copied there is the box's own memory; it is not counted twice, and not forgotten."""
    folder.add("a", ("Q4_K_M",), BIG)
    placement = folder.place(box(7 * GIB, PI_5, devices=(ORIN,)))
    assert placement.load.n_gpu_layers == -1
    fit = placement.candidates[0].fit
    assert fit is not None
    assert fit.device_bytes == 0
    assert fit.repack_bytes > 3 * GIB
    assert placement.budget.hard_bytes + placement.budget.hot_file_bytes <= 7 * GIB
    assert folder.place(box(3 * GIB, PI_5, devices=(ORIN,))).load.n_gpu_layers == 0


def test_a_wish_for_a_gpu_that_is_not_there_is_said(folder: Folder) -> None:
    """And the CPU does it."""
    folder.add("a", ("Q4_K_M",))
    placement = folder.place(box(16 * GIB), Engine(gpu="all"))
    assert placement.load.n_gpu_layers == 0
    assert any("this build has none" in reason for reason in placement.why)


def test_a_wish_for_a_copy_that_cannot_be_made_is_said(folder: Folder) -> None:
    """No CPU has a faster layout for this format."""
    folder.add("a", ("F16",))
    placement = folder.place(box(16 * GIB), Engine(repack="on"))
    assert not placement.load.is_repacked
    assert any("engine.repack asks for a copy" in reason for reason in placement.why)


def test_what_is_chosen_says_what_is_wrong_with_it(folder: Folder) -> None:
    """It is the only one, or it was asked for."""
    folder.add("a", ("Q4_K_M",))
    assert folder.place(box(16 * GIB)).candidates[0].reason == "the only one that is here and fits"
    slow = folder.place(box(16 * GIB), name="a", speed_floor=900).candidates[0].reason
    assert slow.startswith("the configuration asks for it, but ")
    assert slow.endswith("tok/s are below the floor of 900 (models.speed_floor)")


def test_a_context_that_does_not_fit_is_said(folder: Folder) -> None:
    """And what it would take is what it can have."""
    folder.add("a", ("Q4_K_M",))
    placement = folder.place(box(600 * MIB), Engine(n_ctx=1 << 20))
    assert placement.load.n_ctx == 1 << 20
    assert any(
        re.search(r"n_ctx up to 1048576, .*: configured, and \d+ fit", reason) for reason in placement.why
    )
    fit = placement.candidates[0].fit
    assert fit is not None
    assert fit.total_bytes < 600 * MIB
    small = folder.place(box(600 * MIB), Engine(n_ctx=1024)).why
    assert any(reason.endswith("of all conversations together: configured") for reason in small)


def test_a_quantised_cache_needs_flash_attention(folder: Folder) -> None:
    """llama.cpp refuses a quantised V without it; else it finds out by itself."""
    folder.add("a", ("Q4_K_M",))
    assert folder.place(box(16 * GIB)).load.flash_attention == "auto"
    assert folder.place(box(16 * GIB), Engine(kv_type="q8_0")).load.flash_attention == "on"


# ---- measurements --------------------------------------------------------------------------------


def measured(key: str, *speeds: Speed) -> tuple[Measurements, ...]:
    bandwidths = (Bandwidth(n_threads=4, bytes_s=20e9),)
    return (
        Measurements(box="b", build="b", model_key=key, bandwidths=bandwidths, speeds=speeds, seconds=1.0),
    )


def speed(threads: int, decode: float, *, prefill: float = 100.0, repacked: bool = False) -> Speed:
    return Speed(
        n_threads=threads, is_repacked=repacked, n_batch=256, prefill_tok_s=prefill, decode_tok_s=decode
    )


def test_what_was_measured_decides(folder: Folder) -> None:
    """Three threads beat four here, and the copy buys nothing: no rule of thumb knows that."""
    folder.add("a", ("Q4_K_M",))
    key = folder.place(box(16 * GIB)).load.model_key
    figures = measured(
        key, speed(4, 10), speed(3, 14), speed(4, 9, repacked=True), speed(3, 11, repacked=True)
    )
    placement = folder.place(box(16 * GIB, measurements=figures))
    assert (placement.load.n_threads, placement.load.is_repacked) == (3, False)
    assert (placement.candidates[0].decode_tok_s, placement.candidates[0].is_measured) == (14.0, True)


def on_gpu(device: Device, decode: float) -> Speed:
    """As `tampu bench` has it: all layers, with the first count of threads only, little cores and all."""
    return msgspec.structs.replace(speed(8, decode), device=device.name, n_gpu_layers=-1, n_batch=512)


@pytest.mark.parametrize("device", [CARD, ORIN])
def test_a_gpu_that_was_measured_is_used_only_if_it_beats_the_cpu(folder: Folder, device: Device) -> None:
    """Whatever else was measured of the CPU, and though nobody measured a part of the layers there."""
    folder.add("a", ("Q4_K_M",))
    key = folder.place(box(16 * GIB)).load.model_key
    cpu = (speed(4, 50), speed(2, 30), speed(1, 20))
    for decode, layers in ((5.0, 0), (500.0, -1)):
        figures = measured(key, *cpu, on_gpu(device, decode))
        load = folder.place(box(16 * GIB, devices=(device,), measurements=figures)).load
        assert load.n_gpu_layers == layers
    unknown = folder.place(box(16 * GIB, devices=(device,), measurements=measured(key, *cpu)))
    assert unknown.load.n_gpu_layers == -1


def test_figures_of_another_model_lend_their_bandwidth(folder: Folder) -> None:
    """An estimate from what this box's memory gave, and labelled as one."""
    folder.add("a", ("Q4_K_M",))
    plain = folder.place(box(16 * GIB)).candidates[0]
    lent = folder.place(box(16 * GIB, measurements=measured("other", speed(4, 10)))).candidates[0]
    assert not plain.is_measured
    assert not lent.is_measured
    assert plain.decode_tok_s != lent.decode_tok_s


# ---- always --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    available=st.integers(64 * MIB, 32 * GIB),
    features=st.sampled_from([(), PI_4, PI_5, PC]),
    devices=st.sampled_from([(), (CARD,), (ORIN,)]),
    memory=st.sampled_from(["auto", "400M", "3G"]),
)
def test_the_budget_holds_whatever_is_chosen(
    tmp_path_factory: pytest.TempPathFactory,
    available: int,
    features: tuple[str, ...],
    devices: tuple[Device, ...],
    memory: str,
) -> None:
    """Exactly one candidate wins, every file is accounted for, and the parts fit into the budget."""
    folder = Folder(tmp_path_factory.mktemp("models"))
    folder.add("large", ("Q4_K_M", "IQ2_XXS"), BIG)
    folder.add("small", ("Q4_0", "Q8_0"))
    try:
        placement = folder.place(box(available, features, devices=devices), Engine(memory=memory))
    except InsufficientMemory:
        return
    engine = Engine(memory=memory)
    brief = folder.place(box(available, features, devices=devices), engine, is_brief=True)
    assert (brief.load, brief.budget, brief.why) == (placement.load, placement.budget, placement.why)
    assert len(brief.candidates) <= len(placement.candidates)
    assert sum(candidate.is_chosen for candidate in placement.candidates) == 1
    assert len(placement.candidates) == 4
    assert all(candidate.reason for candidate in placement.candidates)
    budget, fit = placement.budget, placement.candidates[0].fit
    assert fit is not None
    assert budget.hard_bytes + budget.hot_file_bytes <= available
    host = fit.repack_bytes + fit.compute_bytes + fit.fixed_bytes
    assert host <= budget.engine_bytes
    if not fit.device_bytes:
        assert host + fit.kv_bytes <= budget.engine_bytes
    assert 512 <= placement.load.n_ctx <= 8192


def test_quality_is_measured_where_it_is_and_unknown_where_nobody_has() -> None:
    """1 is the unquantised model."""

    class Figures:
        kl_divergence: float | None = 0.05

    assert quality_of("IQ2_XXS") is None
    assert quality_of("Q8_0") == pytest.approx(0.9996, abs=1e-4)
    assert quality_of("Q8_0", Figures()) == pytest.approx(0.951, abs=1e-3)
