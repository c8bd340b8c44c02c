"""The storm itself: the same prompts undisturbed, then among faults, then a calm in which all is asked again.

undisturbed texts -> waves of prompts, one fault into each -> calm -> every answer once more -> stop
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults import checker, faults, plan, workload
from tests.faults.checker import Violation
from tests.faults.history import Ask, History, Story
from tests.faults.observer import look
from tests.faults.plan import BREAKERS, KINDS, Fault
from tests.faults.workload import TALKER
from tests.faults.world import NODE, Setting, World, running

# The daemon takes two breaks of connections younger than this for another client of its name.
QUICK_BREAK_S = 10.5
RECONNECTS_WITHIN_S = 40.0
TEXT_WITHIN_S = 1.5
# Waves are not made larger by what is still open, or a broken box would be given everything at once.
MAX_OPEN = 24


@dataclass(frozen=True, slots=True)
class Storm:
    """What shall happen; the same seed is the same storm."""

    seed: int
    num_prompts: int
    num_faults: int
    setting: Setting = field(default_factory=Setting)
    ends_within_s: float = 60.0
    kinds: tuple[str, ...] = KINDS


@dataclass(slots=True)
class Outcome:
    """What did. `skipped` are faults that cannot be had here, with the reason."""

    storm: Storm
    history: History
    violations: list[Violation]
    num_resends: int
    num_boots: int
    took_s: float
    faults_done: Counter[str] = field(default_factory=Counter)
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def ends(self) -> Counter[str]:
        """Requests by how they ended."""
        return Counter(_end(story) for story in self.history.stories)

    @property
    def num_repeats(self) -> int:
        """Terminal frames that came again."""
        return sum(max(0, len(story.results) - 1) for story in self.history.stories)


async def run(storm: Storm, folder: Path, say: Callable[[str], None] = lambda _line: None) -> Outcome:
    """Both worlds, one after the other, in a folder. Raises TimeoutError when a daemon does not come up."""
    started = time.monotonic()
    clients = [f"c{number}" for number in range(storm.setting.num_clients - 1)] + [TALKER]
    asks = workload.in_sessions(workload.draw(storm.seed, storm.num_prompts, clients))
    say(f"  {len(asks)} prompts of {len(clients)} devices, undisturbed")
    expected = await undisturbed(asks, folder / "calm", storm)
    rng = random.Random(storm.seed)
    async with running(folder / "storm", storm.setting, rng) as world:
        world.history.expected = expected
        outcome = Outcome(storm, world.history, [], 0, 0, 0.0)
        await blow(world, storm, asks, outcome, say)
        await calm(world, storm, say)
        outcome.num_resends = sum(device.num_resends for device in world.devices)
        outcome.num_boots = world.num_boots
    outcome.violations = checker.check(world.history)
    outcome.took_s = time.monotonic() - started
    return outcome


async def undisturbed(asks: Sequence[Ask], folder: Path, storm: Storm) -> dict[str, str]:
    """The text of every ask from a daemon that nothing happens to. Raises ValueError when one is missing."""
    setting = Setting(num_clients=storm.setting.num_clients, step_s=0.0)
    async with running(folder, setting, random.Random(0)) as world:
        _deal(world, workload.undisturbed(asks))
        await world.until(lambda: _is_idle(world), 60.0 + len(asks) * 0.2)
        texts = {story.ask.id: checker.whole_text(story) for story in _stories(world)}
    missing = [ask.id for ask in asks if texts.get(ask.id) is None]
    if missing:
        raise ValueError(f"undisturbed, {len(missing)} prompts were not answered: {missing[:5]}")
    return {name: text for name, text in texts.items() if text is not None}


async def blow(
    world: World, storm: Storm, asks: Sequence[Ask], outcome: Outcome, say: Callable[[str], None]
) -> None:
    """A wave of prompts, some text, a fault; again until all faults are done."""
    todo = plan.draw(storm.seed, storm.num_faults, storm.setting.num_clients, storm.kinds)
    breaks = Breaks(world)
    for number, fault in enumerate(todo):
        await breaks.make_way(fault)
        wave = asks[number * len(asks) // len(todo) : (number + 1) * len(asks) // len(todo)]
        _deal(world, wave)
        await _some_text(world)
        if fault.kind == "disk full" and world.disk.why_not:
            outcome.skipped[fault.kind] = world.disk.why_not
            continue
        say(f"  {number + 1:>4} {fault.kind} ({fault.for_s} s); {_num_open(world)} open")
        await faults.apply(world, fault)
        outcome.faults_done[fault.kind] += 1
        await world.until(lambda: _num_open(world) < MAX_OPEN, 10.0)


class Breaks:
    """Keeps breaks of the daemon's connection from looking like a quarrel about its name."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._last_quick_pid = 0

    async def make_way(self, fault: Fault) -> None:
        """Before a break, wait until the last one is long enough ago, or was another daemon's."""
        daemon = self._world.daemon
        if fault.kind not in BREAKERS or daemon is None or daemon.process is None:
            return
        wire, loop = self._world.daemon_wire, asyncio.get_running_loop()
        await self._world.until(lambda: wire.num_open, RECONNECTS_WITHIN_S)
        age_s = loop.time() - wire.opened_at
        if age_s < QUICK_BREAK_S and self._last_quick_pid == daemon.process.pid:
            await asyncio.sleep(QUICK_BREAK_S - age_s)
            self._last_quick_pid = 0
        elif age_s < QUICK_BREAK_S:
            self._last_quick_pid = daemon.process.pid


async def calm(world: World, storm: Storm, say: Callable[[str], None]) -> None:
    """Nothing happens any more: all ends, is asked for again, and the daemon is stopped."""
    history = world.history
    say(f"  calm; {_num_open(world)} open")
    try:
        await world.online()
    except TimeoutError as error:
        history.trouble = str(error)
    await world.until(lambda: _is_idle(world), storm.ends_within_s)
    history.stories = _stories(world)
    await ask_again(world, storm.ends_within_s)
    history.footprints.append(world.footprint())
    history.last_boot = max(
        (
            (one.at_s, one.frame.boot_id or "")
            for s in history.stories
            for one in s.heard
            if one.frame.boot_id
        ),
        default=(0.0, ""),
    )[1]
    history.retained = await look(world.broker.port, NODE)
    await world.stop_daemon()
    history.retained_after_stop = await look(world.broker.port, NODE)


async def ask_again(world: World, timeout_s: float) -> None:
    """Every request once more, or a `get` for it: who was answered gets the same bytes. Misses are noted."""
    waiting: dict[str, int] = {}
    for number, story in enumerate(world.history.stories):
        if not story.results:
            continue
        waiting[story.ask.id] = len(story.results)
        device = next(device for device in world.devices if device.name == story.ask.client)
        if number % 2:
            device.get(story)
        else:
            device.send_again(story)
        await asyncio.sleep(0.01)
    stories = {story.ask.id: story for story in world.history.stories}
    await world.until(
        lambda: all(len(stories[name].results) > n for name, n in waiting.items()), timeout_s / 3
    )
    world.history.unrepeated = [name for name, n in waiting.items() if len(stories[name].results) <= n]


def _deal(world: World, asks: Sequence[Ask]) -> None:
    for device in world.devices:
        device.ask([ask for ask in asks if ask.client == device.name])


async def _some_text(world: World) -> None:
    """Until some device has heard more, or for a while."""
    before = _num_heard(world)
    await world.until(lambda: _num_heard(world) > before, TEXT_WITHIN_S)


def _stories(world: World) -> list[Story]:
    found = [story for device in world.devices for story in device.stories.values()]
    return sorted(found, key=lambda story: story.ask.id)


def _is_idle(world: World) -> bool:
    return all(device.is_idle for device in world.devices)


def _num_open(world: World) -> int:
    return sum(device.num_open for device in world.devices)


def _num_heard(world: World) -> int:
    return sum(device.num_deltas for device in world.devices)


def _end(story: Story) -> str:
    if not story.results:
        return "nothing"
    frame = story.results[0].frame
    return f"error {frame.code}" if frame.type == "error" else f"done {frame.finish_reason}"
