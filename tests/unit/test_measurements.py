"""What was measured is kept per box, build and model, and nothing damaged is believed."""

import logging
import os
from pathlib import Path

import msgspec
import pytest

from agent.catalog import measurements
from agent.catalog.measurements import (
    Bandwidth,
    Measurements,
    Speed,
    best,
    box_key,
    build_key,
    file_of,
    load,
    save,
    speed_for,
)
from agent.hardware.machine import Cpu

CPU = Cpu(arch="aarch64", model="Cortex-A76", features=("asimd", "dotprod"), cpus=4, cores=4)


def speed(
    n_threads: int = 4,
    n_batch: int = 256,
    prefill: float = 100.0,
    decode: float = 10.0,
    is_repacked: bool = False,
    device: str = "",
) -> Speed:
    return Speed(
        n_threads=n_threads,
        is_repacked=is_repacked,
        n_batch=n_batch,
        prefill_tok_s=prefill,
        decode_tok_s=decode,
        device=device,
        n_gpu_layers=-1 if device else 0,
    )


def measured(*speeds: Speed, model_key: str = "m") -> Measurements:
    return Measurements(
        box="b",
        build="llama 1; CPU",
        model_key=model_key,
        bandwidths=(Bandwidth(n_threads=4, bytes_s=1.2e10),),
        speeds=speeds,
        seconds=42.0,
    )


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    """In a folder that is made for it, in the place of what was measured before."""
    folder = tmp_path / "state" / "measurements"
    save(folder, measured(speed(decode=1.0)))
    path = save(folder, measured(speed(decode=2.0)))
    assert load(folder, "b", "llama 1; CPU", "m") == measured(speed(decode=2.0))
    assert list(folder.iterdir()) == [path]


@pytest.mark.parametrize("key", [("x", "llama 1; CPU", "m"), ("b", "x", "m"), ("b", "llama 1; CPU", "x")])
def test_another_box_build_or_model_has_no_figures(tmp_path: Path, key: tuple[str, str, str]) -> None:
    """They would speak for what they were not taken from."""
    save(tmp_path, measured(speed()))
    assert load(tmp_path, *key) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 5000,
        b'{"box": "b"}',
        b" " * (measurements.MAX_FILE_BYTES + 1),
        msgspec.json.encode(msgspec.structs.replace(measured(), format=2)),
        msgspec.json.encode(msgspec.structs.replace(measured(), box="another")),
        msgspec.json.encode(measured()).replace(b'"seconds":42.0', b'"seconds":"long"'),
        msgspec.json.encode(measured(speed(decode=0.0))),
        msgspec.json.encode(measured(speed(prefill=-1.0))),
        msgspec.json.encode(measured(speed(n_threads=0))),
        msgspec.json.encode(measured(speed(n_batch=-256))),
        msgspec.json.encode(measured(speed())).replace(b"10.0", b"1e999"),
        msgspec.json.encode(measured()).replace(b"12000000000.0", b"0"),
    ],
)
def test_a_damaged_file_is_no_file(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The log says which, and how to get another."""
    path = file_of(tmp_path, "b", "llama 1; CPU", "m")
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert load(tmp_path, "b", "llama 1; CPU", "m") is None
    assert str(path) in caplog.text
    assert "tampu bench" in caplog.text
    assert path.read_bytes() == content


def test_a_box_that_was_never_measured_is_no_event(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing in the log, nothing made."""
    assert load(tmp_path / "none", "b", "c", "m") is None
    assert not caplog.records
    assert not (tmp_path / "none").exists()


def test_a_file_that_cannot_be_read_is_no_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder under its name, for instance."""
    file_of(tmp_path, "b", "c", "m").mkdir()
    assert load(tmp_path, "b", "c", "m") is None
    assert "cannot be read" in caplog.text


def test_of_many_files_the_oldest_go(tmp_path: Path) -> None:
    """The newest stay, the one just written among them; what is not ours is not touched."""
    (tmp_path / "notes.txt").write_text("mine")
    for age in range(measurements.MAX_FILES + 3):
        path = save(tmp_path, measured(model_key=f"m{age}"))
        os.utime(path, ns=(age * 10**9, age * 10**9))
    save(tmp_path, measured(model_key="last"))
    kept = list(tmp_path.glob("*.json"))
    assert len(kept) == measurements.MAX_FILES
    assert load(tmp_path, "b", "llama 1; CPU", "last") is not None
    assert load(tmp_path, "b", "llama 1; CPU", "m3") is None
    assert load(tmp_path, "b", "llama 1; CPU", "m4") is not None
    assert (tmp_path / "notes.txt").exists()


def test_a_box_has_the_same_key_every_day() -> None:
    """Whatever the order in which the system names things: the digest is written down here."""
    other = msgspec.structs.replace(CPU, features=("dotprod", "asimd"))
    assert box_key(CPU, ["A", "B"]) == box_key(other, ["B", "A"])
    assert box_key(CPU) == "75445bc3d63b070651c4be9233d79533"


@pytest.mark.parametrize(
    "change",
    [{"model": "Cortex-A72"}, {"features": ("asimd",)}, {"cores": 2}, {"cpus": 8}, {"arch": "x86_64"}],
)
def test_another_cpu_is_another_box(change: dict[str, object]) -> None:
    """Whatever of it makes its speed."""
    assert box_key(msgspec.structs.replace(CPU, **change)) != box_key(CPU)


def test_another_gpu_is_another_box() -> None:
    """Also a second one of the same kind."""
    assert len({box_key(CPU, gpus) for gpus in ([], ["A"], ["A", "A"], ["B"])}) == 4


def test_a_build_is_its_version_and_devices() -> None:
    """In words, for whoever reads the file."""
    assert build_key("llama 1", ["CUDA0", "CPU"]) == build_key("llama 1", ["CPU", "CUDA0"])
    assert build_key("llama 1", ["CPU"]) == "llama 1; CPU"


def test_the_best_answers_a_usual_request_soonest() -> None:
    """Neither the quickest prefill nor the quickest decode alone: 200 tokens in, 100 out."""
    balanced = speed(prefill=100, decode=20)
    figures = measured(speed(prefill=1000, decode=5), balanced, speed(prefill=10, decode=25))
    assert balanced.request_s == pytest.approx(2 + 5)
    assert best(figures) == balanced


def test_the_best_of_some_ways() -> None:
    """Of those asked for; None when there is none."""
    plain, repacked, gpu = speed(), speed(prefill=300, is_repacked=True), speed(decode=90, device="CUDA0")
    figures = measured(plain, repacked, gpu)
    assert best(figures) == gpu
    assert best(figures, device="") == repacked
    assert best(figures, is_repacked=False, device="") == plain
    assert best(figures, device="Vulkan0") is None
    assert best(measured()) is None


def test_the_speed_of_one_way() -> None:
    """The very count of threads, the nearest size of a step; without a size the quickest prefill."""
    small, large = speed(n_batch=32, prefill=50), speed(n_batch=256, prefill=40)
    figures = measured(small, large, speed(n_threads=1), speed(is_repacked=True), speed(device="CUDA0"))
    assert speed_for(figures, 4, is_repacked=False) == small
    assert speed_for(figures, 4, is_repacked=False, n_batch=512) == large
    assert speed_for(figures, 4, is_repacked=False, n_batch=64) == small
    assert speed_for(figures, 2, is_repacked=False) is None
    assert speed_for(figures, 4, is_repacked=True, device="CUDA0") is None


def test_figures_of_nothing_divide_by_nothing() -> None:
    """A file may hold zeros: that way is the slowest, not an error."""
    assert best(measured(speed(prefill=0, decode=0), speed())) == speed()


def test_what_others_took_of_the_box_is_kept_with_the_figures(tmp_path: Path) -> None:
    """Placement may then trust them less."""
    save(tmp_path, msgspec.structs.replace(measured(speed()), others_cores=1.4))
    kept = load(tmp_path, "b", "llama 1; CPU", "m")
    assert kept is not None
    assert (kept.others_cores, kept.is_disturbed, measured().is_disturbed) == (1.4, True, False)
