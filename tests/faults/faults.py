"""The faults by name: each does its harm, heals it, and notes what may be held against nobody."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable

from tests.faults.history import Harm
from tests.faults.plan import Fault
from tests.faults.world import MIB, World

NUM_REPEATED = 3
STRESSED = (
    "some avg10=70.00 avg60=60.00 avg300=50.00 total=900000\n"
    "full avg10=60.00 avg60=50.00 avg300=40.00 total=800000\n"
)
DELAY_S = 0.15

Apply = Callable[[World, Fault], Awaitable[None]]


async def apply(world: World, fault: Fault) -> None:
    """Do it, wait as long as it lasts, and undo it."""
    await FAULTS[fault.kind](world, fault)


# ---- processes -----------------------------------------------------------------------------------


async def kill_daemon(world: World, fault: Fault) -> None:
    start = time.monotonic()
    world.signal_daemon(signal.SIGKILL)
    await asyncio.sleep(fault.for_s)
    world.note(Harm.DAEMON_DEATH, start)


async def stop_daemon(world: World, fault: Fault) -> None:
    world.signal_daemon(signal.SIGSTOP)
    try:
        await asyncio.sleep(fault.for_s)
    finally:
        world.signal_daemon(signal.SIGCONT)


async def kill_engine(world: World, fault: Fault) -> None:
    start = time.monotonic()
    if world.signal_engine(signal.SIGKILL):
        world.note(Harm.ENGINE_DEATH, start)
    await asyncio.sleep(fault.for_s / 2)


async def stop_engine(world: World, fault: Fault) -> None:
    world.signal_engine(signal.SIGSTOP)
    try:
        await asyncio.sleep(fault.for_s)
    finally:
        world.signal_engine(signal.SIGCONT)


async def kill_broker(world: World, fault: Fault) -> None:
    """What it had not saved in its last second is lost."""
    await _forgetting(world, fault, world.broker.kill)


async def restart_broker(world: World, fault: Fault) -> None:
    """It saves what it has, and reads it again; some versions lose deliveries all the same."""
    await asyncio.to_thread(world.broker.stop)
    world.num_forgotten += world.broker.may_lose
    await asyncio.sleep(fault.for_s)
    await asyncio.to_thread(world.broker.start)


async def forget_broker(world: World, fault: Fault) -> None:
    """It dies and comes back knowing nobody, as one without persistence does."""

    def lose_all() -> None:
        world.broker.kill()
        world.broker.forget()

    await _forgetting(world, fault, lose_all)


async def _forgetting(world: World, fault: Fault, harm: Callable[[], None]) -> None:
    start = time.monotonic()
    await asyncio.to_thread(harm)
    world.num_forgotten += 1
    await asyncio.sleep(fault.for_s)
    await asyncio.to_thread(world.broker.start)
    # A device that trusts what it heard between the last save and the death asks again all the same.
    world.num_forgotten += 1
    await world.until(lambda: all(device.session.is_up.is_set() for device in world.devices), 10.0)
    world.note(Harm.FORGETTING, start)


async def stop_broker(world: World, fault: Fault) -> None:
    world.broker.signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(fault.for_s)
    finally:
        world.broker.signal(signal.SIGCONT)


# ---- wires ---------------------------------------------------------------------------------------


async def pause_daemon(world: World, fault: Fault) -> None:
    world.daemon_wire.pause()
    await asyncio.sleep(fault.for_s)
    world.daemon_wire.heal()


async def delay_daemon(world: World, fault: Fault) -> None:
    world.daemon_wire.delay(DELAY_S)
    await asyncio.sleep(fault.for_s)
    world.daemon_wire.heal()


async def refuse_daemon(world: World, fault: Fault) -> None:
    world.daemon_wire.refuse()
    await asyncio.sleep(fault.for_s)
    world.daemon_wire.heal()


async def truncate_daemon(world: World, fault: Fault) -> None:
    """The connection ends in the middle of a packet."""
    world.daemon_wire.truncate()
    await world.until(lambda: not world.daemon_wire.num_open, fault.for_s + 3.0)
    world.daemon_wire.heal()


async def cut_client(world: World, fault: Fault) -> None:
    world.client_wires[fault.client].cut()
    await asyncio.sleep(fault.for_s / 4)


async def pause_client(world: World, fault: Fault) -> None:
    wire = world.client_wires[fault.client]
    wire.pause()
    await asyncio.sleep(fault.for_s)
    wire.heal()


async def refuse_client(world: World, fault: Fault) -> None:
    wire = world.client_wires[fault.client]
    wire.refuse()
    await asyncio.sleep(fault.for_s)
    wire.heal()


async def truncate_client(world: World, fault: Fault) -> None:
    wire = world.client_wires[fault.client]
    wire.truncate()
    await asyncio.sleep(fault.for_s)
    wire.heal()


# ---- what devices do -----------------------------------------------------------------------------


async def duplicate(world: World, fault: Fault) -> None:
    """Every device sends what is open again, twice and with DUP, and its last ended requests too."""
    for device in world.devices:
        device.repeat(NUM_REPEATED)
    await asyncio.sleep(fault.for_s / 2)


async def cancel_first(world: World, fault: Fault) -> None:
    """The next asks of a device are cancelled before they are sent."""
    world.devices[fault.client].misorder(cancels=True)
    await asyncio.sleep(fault.for_s / 4)


async def get_first(world: World, fault: Fault) -> None:
    """The next asks of a device are asked about before they are sent, and all it knows are asked about."""
    device = world.devices[fault.client]
    device.misorder(cancels=False)
    for story in list(device.stories.values())[-NUM_REPEATED:]:
        device.get(story)
    await asyncio.sleep(fault.for_s / 4)


# ---- what the box has ----------------------------------------------------------------------------


async def fill_disk(world: World, fault: Fault) -> None:
    start = time.monotonic()
    if world.disk.why_not:
        return
    await asyncio.to_thread(world.disk.fill)
    try:
        await asyncio.sleep(fault.for_s)
    finally:
        world.disk.free()
        world.note(Harm.DISK_FULL, start)


async def squeeze_memory(world: World, fault: Fault) -> None:
    start = time.monotonic()
    world.set_memory(available=24 * MIB, psi=STRESSED)
    try:
        await asyncio.sleep(fault.for_s + 2.0)
    finally:
        world.set_memory()
        world.note(Harm.SQUEEZE, start)


FAULTS: dict[str, Apply] = {
    "daemon kill": kill_daemon,
    "daemon stop": stop_daemon,
    "daemon paused": pause_daemon,
    "daemon delayed": delay_daemon,
    "daemon refused": refuse_daemon,
    "daemon truncated": truncate_daemon,
    "engine kill": kill_engine,
    "engine stop": stop_engine,
    "broker kill": kill_broker,
    "broker restart": restart_broker,
    "broker forgets": forget_broker,
    "broker stop": stop_broker,
    "client cut": cut_client,
    "client paused": pause_client,
    "client refused": refuse_client,
    "client truncated": truncate_client,
    "duplicates": duplicate,
    "cancel first": cancel_first,
    "get first": get_first,
    "disk full": fill_disk,
    "memory squeeze": squeeze_memory,
}
