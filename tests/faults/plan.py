"""When which fault comes: a list drawn from a seed. Every kind comes once before any comes twice."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

# They break the daemon's connection; two that follow at once look like another client of its name, and it
# stays away for half a minute, as it should. So they are dealt out evenly among the others.
BREAKERS = (
    "broker kill",
    "broker restart",
    "broker forgets",
    "daemon refused",
    "daemon truncated",
)
OTHERS = (
    "daemon kill",
    "daemon stop",
    "engine kill",
    "engine stop",
    "broker stop",
    "daemon paused",
    "daemon delayed",
    "client cut",
    "client paused",
    "client refused",
    "client truncated",
    "duplicates",
    "cancel first",
    "get first",
    "disk full",
    "memory squeeze",
)
# What could not be written while the disk was full is in memory alone until the journal has tried again: a
# death of the daemon at once after it costs what it costs, as README says.
FULL, DEATH = "disk full", "daemon kill"
KINDS = (*BREAKERS, *OTHERS)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing to do to the box: what, for how long, and to which client where that matters."""

    kind: str
    for_s: float
    client: int


def draw(seed: int, num_faults: int, num_clients: int, kinds: Sequence[str] = KINDS) -> list[Fault]:
    """So many faults of these kinds; the same for the same seed."""
    rng = random.Random(seed)
    return [
        Fault(kind, round(rng.uniform(0.3, 1.5), 2), rng.randrange(num_clients))
        for kind in _kinds(rng, num_faults, kinds)
    ]


def _kinds(rng: random.Random, num_faults: int, kinds: Sequence[str]) -> list[str]:
    drawn: list[str] = []
    while len(drawn) < num_faults:
        drawn += [kind for kind in _round(rng) if kind in kinds]
    for at in range(len(drawn) - 2):
        if (drawn[at], drawn[at + 1]) == (FULL, DEATH):
            drawn[at + 1], drawn[at + 2] = drawn[at + 2], drawn[at + 1]
    return drawn[:num_faults]


def _round(rng: random.Random) -> list[str]:
    """Every kind once, the breakers evenly among the others."""
    breakers, others = rng.sample(BREAKERS, len(BREAKERS)), rng.sample(OTHERS, len(OTHERS))
    done: list[str] = []
    for number, kind in enumerate(others):
        done.append(kind)
        if len(breakers) * (number + 1) // len(others) > len(breakers) * number // len(others):
            done.append(breakers[len(breakers) * number // len(others)])
    return done
