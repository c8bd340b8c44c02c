"""The smallest memory cgroup in which 100 prompts of 16 clients are all answered.

The limit holds what a process must have and the page cache it fills, so it is about the memory of a box
with nothing else on it. The clients and the broker are outside.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import lean_wheel
from steps import say
from tests.bench.bench import Bench
from tests.bench.bisect_limit import smallest
from tests.bench.cgroups import limited, why_not
from tests.bench.http_client import Question
from tests.bench.load import all_answered
from tests.bench.questions import NUM_CLIENTS, SUBJECTS
from tests.bench.report import Figure
from tests.bench.sides import Setting, Side, llama_server, tampu
from tests.bench.variants import DEFAULT, Variant

NAME = "smallest memory cgroup for 100 prompts"
NUM_PROMPTS, STEP_MIB = 100, 4
QUICK_PROMPTS, QUICK_STEP_MIB = 32, 32
LOW_MIB, HIGH_MIB = 32, 640
NUM_TOKENS = 16
# A limit at which the model's pages go and come with each token works in a way, and is of no use.
STARTS_WITHIN_S, ANSWERS_WITHIN_S = 45.0, 90.0

Start = Callable[[Setting], AbstractContextManager[Side]]

# By hand, as small as will do: Tampu's slots and context are set to the same.
TUNED = Variant("llama-server --cache-ram 0 -ub 128", ("--cache-ram", "0", "-ub", "128")).sized(2048, 4)
TUNED_TAMPU = {"engine": {"n_ctx": 2048, "slots": 4}}
DEFAULTS = DEFAULT.sized(8192, 16)


def measure(bench: Bench) -> list[Figure]:
    figures = [
        Figure(f"{NAME}, Tampu as it comes", "MiB", DEFAULTS.name, at_most=0.5),
        Figure(f"{NAME}, Tampu with n_ctx 2048 and 4 slots", "MiB", TUNED.name, at_most=0.5),
    ]
    if reason := why_not():
        for figure in figures:
            figure.note = reason
        return figures
    # A copy, since pages that other processes have of the model would not count. Not in /tmp, which is
    # memory on many boxes.
    with tempfile.TemporaryDirectory(prefix="smallest-", dir=lean_wheel.cache_root()) as folder:
        model = Path(shutil.copy(bench.setting.model, folder))
        search = Search(replace(bench.setting, model=model, starts_within_s=STARTS_WITHIN_S), bench.is_quick)
        _fill(figures[0], search.tampu({}), search.llama_server(DEFAULTS))
        _fill(figures[1], search.tampu(TUNED_TAMPU), search.llama_server(TUNED))
    return figures


def _fill(figure: Figure, ours: int | None, theirs: int | None) -> None:
    if ours is None or theirs is None:
        who = "Tampu" if ours is None else "llama-server"
        figure.note = f"{who} does not answer them all in {HIGH_MIB} MiB"
    else:
        figure.pairs.append((ours, theirs))


@dataclass(frozen=True, slots=True)
class Search:
    """For the smallest limit of one side after the other, on a model file that nobody else has in memory."""

    setting: Setting
    is_quick: bool

    def tampu(self, tree: dict[str, dict[str, int]]) -> int | None:
        return self._smallest(f"Tampu {tree or ''}".rstrip(), lambda setting: tampu(setting, tree))

    def llama_server(self, variant: Variant) -> int | None:
        return self._smallest(variant.name, lambda setting: llama_server(setting, variant))

    def _smallest(self, name: str, start: Start) -> int | None:
        def works(mib: int) -> bool:
            does = self._works(mib, start)
            say(f"    {name} in {mib} MiB: {'all answered' if does else 'not enough'}")
            return does

        return smallest(works, LOW_MIB, HIGH_MIB, QUICK_STEP_MIB if self.is_quick else STEP_MIB)

    def _works(self, mib: int, start: Start) -> bool:
        forget_pages(self.setting.model)
        with limited(mib << 20) as group:
            try:
                with start(replace(self.setting, wrap=group.wrap)) as side:
                    return all_answered(side, self._conversations(), ANSWERS_WITHIN_S)
            except ValueError:  # it did not even come up
                return False

    def _conversations(self) -> list[list[Question]]:
        num_prompts = QUICK_PROMPTS if self.is_quick else NUM_PROMPTS
        questions = [
            Question(f"Tell me story number {number} about {SUBJECTS[number % len(SUBJECTS)]}.", NUM_TOKENS)
            for number in range(num_prompts)
        ]
        return [questions[client::NUM_CLIENTS] for client in range(NUM_CLIENTS)]


def forget_pages(path: Path) -> None:
    """Take a file out of the page cache: pages count for the group that reads them first."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
