"""Cancels that came first are remembered, for a while and not for everybody's cost."""

from agent.mqtt.tombstones import LASTS_S, MAX_PER_CLIENT, MAX_TOMBSTONES, Tombstones


def test_a_cancel_is_remembered_for_a_minute() -> None:
    """For its client and its id."""
    now = [100.0]
    tombstones = Tombstones(lambda: now[0])
    tombstones.add("me", "r1")
    assert tombstones.has("me", "r1")
    assert not tombstones.has("you", "r1")
    assert not tombstones.has("me", "r2")
    now[0] += LASTS_S
    assert not tombstones.has("me", "r1")


def test_one_clients_cancels_push_out_its_own() -> None:
    """The oldest, and nobody else's."""
    tombstones = Tombstones()
    tombstones.add("you", "r1")
    for number in range(10 * MAX_PER_CLIENT):
        tombstones.add("me", f"r{number}")
    assert tombstones.has("you", "r1")
    assert not tombstones.has("me", "r1")
    assert tombstones.has("me", f"r{10 * MAX_PER_CLIENT - 1}")


def test_however_many_clients_there_are_memory_is_bounded() -> None:
    """Those that have cancelled longest ago go."""
    tombstones = Tombstones()
    for number in range(2 * MAX_TOMBSTONES):
        tombstones.add(f"c{number}", "r")
    assert not tombstones.has("c0", "r")
    assert tombstones.has(f"c{2 * MAX_TOMBSTONES - 1}", "r")
