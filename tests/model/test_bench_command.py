"""`tampu bench` as installed, on the real model: its figures have the shape placement reads."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from agent.catalog.measurements import load
from agent.cli.bench_report import Report


def test_a_short_bench_measures_and_keeps(model_path: Path, tmp_path: Path) -> None:
    """Eight seconds are enough for the mapped weights; what it printed is what was kept."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TAMPU_")}
    ran = subprocess.run(
        [sys.executable, "-m", "agent", "bench", "--model", str(model_path), "--seconds", "8", "--json"],
        capture_output=True,
        timeout=55,
        cwd=Path(__file__).parents[2],
        env={**kept, "STATE_DIRECTORY": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
    )
    assert ran.returncode == 0, ran.stderr.decode()
    report = msgspec.json.decode(ran.stdout, type=Report)
    figures = report.measurements
    assert load(tmp_path / "measurements", figures.box, figures.build, figures.model_key) == figures
    assert Path(report.kept).parent == tmp_path / "measurements"
    mapped = [speed for speed in figures.speeds if not speed.is_repacked and not speed.device]
    assert mapped
    assert report.best in figures.speeds
    for speed in figures.speeds:
        # A row of a larger step never costs more than twice a row alone.
        assert 0 < speed.decode_tok_s < 2 * max(one.prefill_tok_s for one in figures.speeds)
    assert b"evictable: decode" in ran.stderr
