"""Runs a group of clients against one side, in one thread, and watches the side's memory meanwhile."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from tests.bench.http_client import GIVE_UP_S, Question, ask
from tests.bench.memory import Memory
from tests.bench.sides import Side
from tests.bench.streams import Fleet, Stream

MEMORY_EVERY_S = 0.5
# Touches what is touched once: the first computation of a process is slower than the others.
WARM_UP = Question("Hi!", 2)


@dataclass(frozen=True, slots=True)
class Served:
    """What the clients saw, and the most memory that the side's processes had."""

    fleet: Fleet
    memory: Memory


def ask_one(side: Side, question: Question, give_up_s: float = GIVE_UP_S) -> Stream:
    """One client's one question."""
    return asyncio.run(ask(side.socket, question, "device-0", give_up_s))


def warm_up(side: Side) -> None:
    """Raises ValueError when the side does not answer."""
    Fleet((ask_one(side, WARM_UP),)).check_complete(side.name)


def serve(side: Side, conversations: Sequence[Sequence[Question]], give_up_s: float = GIVE_UP_S) -> Served:
    """All clients at once; each asks its questions one after the other."""
    return asyncio.run(_serve(side, conversations, give_up_s))


def ask_in_turn(side: Side, questions: Sequence[Question]) -> Fleet:
    """One client's questions, one after the other. Raises ValueError when an answer failed."""
    streams = asyncio.run(_converse(side.socket, questions, "device-0", GIVE_UP_S))
    fleet = Fleet(tuple(streams))
    fleet.check_complete(side.name)
    return fleet


def all_answered(side: Side, conversations: Sequence[Sequence[Question]], within_s: float) -> bool:
    """The same clients: does every answer come to its end in this time? Stops at the first that does not."""
    try:
        asyncio.run(asyncio.wait_for(_all_answered(side, conversations), within_s))
    except (ValueError, TimeoutError):
        return False
    return True


async def _all_answered(side: Side, conversations: Sequence[Sequence[Question]]) -> None:
    async def converse(questions: Sequence[Question], client: str) -> None:
        for question in questions:
            Fleet((await ask(side.socket, question, client),)).check_complete(side.name)

    await asyncio.gather(
        *(converse(questions, f"device-{number}") for number, questions in enumerate(conversations))
    )


async def _serve(side: Side, conversations: Sequence[Sequence[Question]], give_up_s: float) -> Served:
    seen: list[Memory] = []
    watch = asyncio.create_task(_watch(side, seen))
    clients = [
        _converse(side.socket, questions, f"device-{number}", give_up_s)
        for number, questions in enumerate(conversations)
    ]
    try:
        streams = await asyncio.gather(*clients)
    finally:
        watch.cancel()
    peak = Memory(0, None if any(memory.anonymous is None for memory in seen) else 0)
    for memory in seen:
        peak = memory.at_least(peak)
    return Served(Fleet(tuple(stream for group in streams for stream in group)), peak)


async def _converse(
    socket: str, questions: Sequence[Question], client: str, give_up_s: float
) -> list[Stream]:
    return [await ask(socket, question, client, give_up_s) for question in questions]


async def _watch(side: Side, seen: list[Memory]) -> None:
    while True:
        with contextlib.suppress(psutil.NoSuchProcess):  # one of them may end while we look
            seen.append(side.memory())
        await asyncio.sleep(MEMORY_EVERY_S)
