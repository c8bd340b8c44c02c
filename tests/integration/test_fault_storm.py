"""Every kind of fault once, among prompts of several devices; the long form is `./build/prove faults`."""

import asyncio
from pathlib import Path

import pytest

from tests.faults import storm
from tests.faults.plan import KINDS
from tests.faults.storm import Storm

SEED = 7


@pytest.mark.timeout(240)
def test_nothing_promised_is_broken_in_a_storm(tmp_path: Path) -> None:
    """Each accepted id has one result, its text is the undisturbed one, and all of it can be had again."""
    print(f"seed {SEED}; a longer one: ./build/prove faults --seed N")
    outcome = asyncio.run(storm.run(Storm(seed=SEED, num_prompts=84, num_faults=len(KINDS)), tmp_path))
    assert set(outcome.faults_done) | set(outcome.skipped) == set(KINDS)
    assert outcome.num_boots > 1
    assert not outcome.violations, "\n".join(map(str, outcome.violations[:20]))
