"""What the devices ask: drawn from a seed, so that a storm can be repeated."""

import random
from collections.abc import Sequence

import msgspec

from tests.faults.history import Ask, Question

TURNS_PER_SESSION = 4
SHORT_TTL_S = 3.0
# One in so many asks is cancelled, asked about first, or has little time.
CANCEL_EVERY, CANCEL_FIRST_EVERY, GET_FIRST_EVERY, TTL_EVERY = 9, 23, 11, 13
TALKER = "talker"


def draw(seed: int, num_prompts: int, clients: Sequence[str]) -> list[Ask]:
    """Prompts dealt to the clients in turn; the talker's are turns of sessions, without cancels."""
    rng = random.Random(seed)
    return [
        _turn(rng, number) if clients[number % len(clients)] == TALKER else _single(rng, number, clients)
        for number in range(num_prompts)
    ]


def undisturbed(asks: Sequence[Ask]) -> list[Ask]:
    """The same questions from devices that only ask: no cancel, no deadline."""
    return [Ask(ask.client, msgspec.structs.replace(ask.question, ttl_s=None)) for ask in asks]


def _question(rng: random.Random, number: int) -> Question:
    is_long = rng.random() < 0.7
    return Question(
        id=f"q{number:05d}",
        prompt=f"{'a LONG' if is_long else 'a'} story about stone {rng.randrange(1 << 30)}",
        seed=rng.randrange(1 << 31),
        temperature=rng.choice((0.0, 0.0, 0.8, 1.2)),
        max_tokens=rng.randrange(20, 90),
        reply_qos=rng.choice((0, 0, 1)),
    )


def _single(rng: random.Random, number: int, clients: Sequence[str]) -> Ask:
    question, cancel_after_s = _question(rng, number), None
    if rng.randrange(TTL_EVERY) == 0:
        question = msgspec.structs.replace(question, ttl_s=SHORT_TTL_S)
    if rng.randrange(CANCEL_FIRST_EVERY) == 0:
        cancel_after_s = 0.0
    elif rng.randrange(CANCEL_EVERY) == 0:
        cancel_after_s = rng.uniform(0.05, 1.5)
    return Ask(
        clients[number % len(clients)],
        question,
        cancel_after_s=cancel_after_s,
        gets_first=rng.randrange(GET_FIRST_EVERY) == 0,
    )


def _turn(rng: random.Random, number: int) -> Ask:
    """Which turn it is follows from the talker's order: it asks one after another."""
    question = msgspec.structs.replace(_question(rng, number), max_tokens=24)
    return Ask(TALKER, question)


def in_sessions(asks: Sequence[Ask]) -> list[Ask]:
    """The talker's asks with their sessions' names: so many turns each."""
    seen = 0
    done = []
    for ask in asks:
        if ask.client == TALKER:
            session = f"s{seen // TURNS_PER_SESSION}"
            seen += 1
            ask = Ask(ask.client, msgspec.structs.replace(ask.question, session=session))
        done.append(ask)
    return done
