"""Shared prefixes: computed once, used by many, and never across clients beyond the system prompt."""

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from agent.engine.detokenizer import Detokenizer
from agent.engine.kv_cache import MIN_AWAITED, KVCache
from agent.engine.pool import Pool
from agent.engine.sampler import Sampler
from agent.engine.scheduler import MAX_SKIPS, Scheduler
from agent.engine.sequence import Sequence
from agent.request import Sampling
from tests.support.fake_backend import FakeBackend

SYSTEM = list(range(1000, 1100))
keys = count(1)


class Room:
    """A scheduler, its ledger and a fake backend."""

    def __init__(self, *, num_cells: int = 1000, num_slots: int = 4, can_share: bool = True) -> None:
        self.backend = FakeBackend(num_cells=num_cells, num_slots=num_slots, n_batch=32, can_share=can_share)
        self.kv = KVCache(self.backend, Pool(self.backend, n_ctx=num_cells))
        self.scheduler = Scheduler(self.kv, 32)
        self.num_computed = 0

    def add(
        self, tokens: list[int], *, client: str = "a", num_public: int = 0, max_tokens: int = 4
    ) -> Sequence:
        sequence = Sequence(
            key=next(keys),
            client=client,
            tokens=list(tokens),
            num_prompt=len(tokens),
            max_tokens=max_tokens,
            num_public=num_public,
            sampler=Sampler(self.backend, Sampling(seed=0, temperature=0.0)),
            detokenizer=Detokenizer(),
        )
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> None:
        self.scheduler.admit()
        batch = self.scheduler.schedule(32)
        assert self.backend.decode(batch) == 0
        self.num_computed += len(batch)
        for chunk in batch.chunks:
            self.kv.note_computed(chunk.sequence, chunk.count)
            if chunk.output_row is not None:
                chunk.sequence.tokens.append(chunk.sequence.sampler.sample(chunk.output_row))
                if chunk.sequence.num_generated >= chunk.sequence.max_tokens:
                    self.scheduler.remove(chunk.sequence)

    def run(self) -> None:
        while not self.scheduler.is_idle:
            self.step()
        assert self.kv.check_integrity() == []
        assert self.backend.max_used <= self.backend.num_cells


def test_a_conversation_goes_on_from_what_is_resident() -> None:
    """The same client's next turn computes only what is new."""
    room = Room()
    first = room.add([1, 2, 3, 4, 5])
    room.run()
    again = room.add([*first.tokens, 8, 9])
    room.run()
    # The last token of an answer was sampled and never computed.
    assert again.num_cached == len(first.tokens) - 1


def test_a_prompt_asked_again_computes_one_token() -> None:
    """Its logits are needed, so one token is always left."""
    room = Room()
    room.add([1, 2, 3, 4, 5])
    room.run()
    again = room.add([1, 2, 3, 4, 5])
    room.run()
    assert again.num_cached == 4


def test_a_system_prompt_is_shared_across_clients_and_nothing_else_is() -> None:
    """What a client wrote after it is computed again, however alike it is."""
    room = Room()
    room.add([*SYSTEM, 7, 8, 9, 10], client="a", num_public=100)
    room.run()
    other = room.add([*SYSTEM, 7, 8, 9, 10], client="b", num_public=100)
    room.run()
    assert other.num_cached == 100


def test_without_a_public_part_nothing_is_shared_across_clients() -> None:
    """Not even equal prompts."""
    room = Room()
    room.add(SYSTEM, client="a")
    room.run()
    other = room.add(SYSTEM, client="b")
    room.run()
    assert other.num_cached == 0


def test_a_herd_with_one_system_prompt_computes_it_once() -> None:
    """The others wait for the first to have computed it, and then fan out."""
    room = Room(num_slots=8)
    herd = [room.add([*SYSTEM, 7, number], client=f"c{number}", num_public=100) for number in range(8)]
    room.run()
    assert sorted(sequence.num_cached or 0 for sequence in herd) == [0] + [100] * 7
    # 100 shared, two own each, and three of the four generated are computed.
    assert room.num_computed == 100 + 8 * 2 + 8 * 3


def test_a_herd_does_not_wait_for_a_leader_that_went_away() -> None:
    """Cancelled in the middle of the shared prompt: somebody else goes on from there."""
    room = Room(num_slots=4)
    herd = [room.add([*SYSTEM, number], client=f"c{number}", num_public=100) for number in range(3)]
    room.step()
    room.scheduler.remove(herd[0])
    room.run()
    assert all(sequence.num_generated == 4 for sequence in herd[1:])
    assert herd[1].num_cached == 32


def test_a_model_whose_cache_cannot_be_shared_computes_everything() -> None:
    """Recurrent states and sliding windows: nothing is kept, copied or waited for."""
    room = Room(can_share=False)
    herd = [room.add([*SYSTEM, 7], client=client, num_public=100) for client in "aab"]
    assert room.scheduler.admit() == herd[:1] + herd[2:] + herd[1:2]
    room.run()
    assert [sequence.num_cached for sequence in herd] == [0, 0, 0]
    assert room.kv.num_resident == 0


def test_a_short_common_beginning_is_not_waited_for() -> None:
    """Computing a few tokens costs less than waiting a step."""
    room = Room()
    short = SYSTEM[: MIN_AWAITED - 1]
    for client in "ab":
        room.add([*short, 5], client=client, num_public=len(short))
    assert len(room.scheduler.admit()) == 2


def test_cached_prefixes_make_way_for_new_work() -> None:
    """Oldest first; what is running is never touched."""
    room = Room(num_cells=300, num_slots=4)
    for client in "ab":
        room.add([*range(100)], client=client)
        room.run()
    assert room.kv.num_resident > 200
    running = room.add([*range(500, 620)], client="c", max_tokens=60)
    room.run()
    assert running.num_generated == 60
    recent = room.add([*range(100)], client="b")
    room.run()
    assert recent.num_cached == 99


def test_a_slot_is_found_when_all_are_cached() -> None:
    """More clients than slots, one after another."""
    room = Room(num_slots=2)
    for number in range(6):
        room.add([number, number + 1], client=f"c{number}")
        room.run()


requests = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.integers(0, 100),
        st.lists(st.integers(0, 2), min_size=1, max_size=60),
        st.integers(1, 30),
        st.integers(0, 20),
    ),
    min_size=1,
    max_size=20,
)


@given(requests, st.integers(200, 400), st.integers(1, 6))
def test_shared_answers_are_the_lone_ones_and_secrets_stay_apart(
    asked: list[tuple[str, int, list[int], int, int]], num_cells: int, num_slots: int
) -> None:
    """Whatever begins alike: the tokens are those of an empty cache, and cells are never exceeded."""
    room = Room(num_cells=num_cells, num_slots=num_slots)
    sequences: list[Sequence] = []
    for client, num_public, rest, max_tokens, steps in asked:
        tokens = [*SYSTEM[:num_public], *rest]
        sequences.append(room.add(tokens, client=client, num_public=num_public, max_tokens=max_tokens))
        for _ in range(steps):
            if not room.scheduler.is_idle:
                room.step()
    room.run()
    seen: dict[str, list[list[int]]] = {}
    for sequence, (client, num_public, rest, max_tokens, _) in zip(sequences, asked, strict=True):
        alone = Room()
        lone = alone.add([*SYSTEM[:num_public], *rest], max_tokens=max_tokens)
        alone.run()
        assert sequence.tokens == lone.tokens
        if client not in seen:
            assert (sequence.num_cached or 0) <= num_public
        seen.setdefault(client, []).append(sequence.tokens)


def test_nothing_is_pinned_or_held_when_all_is_dropped() -> None:
    """The counters return to zero."""
    room = Room()
    for client in "ab":
        room.add([*SYSTEM, 1], client=client, num_public=100)
    room.run()
    room.kv.drop_cached()
    assert room.kv.num_used == room.kv.num_resident == room.backend.num_used == 0


def test_two_conversations_of_one_client_keep_a_slot_each() -> None:
    """A few shared tokens are no reason to throw the rest of the other one away."""
    room = Room()
    first, second = [*range(10), *range(100, 300)], [*range(10), *range(400, 600)]
    room.add(first)
    room.run()
    room.add(second)
    room.run()
    again = room.add([*first, 7])
    room.run()
    assert again.num_cached == len(first)


def test_no_more_run_at_once_than_may() -> None:
    """Slots beyond that keep profiles."""
    room = Room(num_slots=4)
    room.backend.max_running = 2
    for client in "abc":
        room.add([ord(client)] * 5, client=client)
    assert len(room.scheduler.admit()) == 2


def test_who_waits_for_a_prefix_closes_nobody_s_door() -> None:
    """It is short of no cells; others that have room go on passing it."""
    room = Room(num_cells=4000, num_slots=64)
    shared = list(range(1000, 2000))
    room.add([*shared, 1], client="leader", num_public=len(shared))
    room.scheduler.admit()
    room.add([*shared, 2], client="waits", num_public=len(shared))
    for number in range(MAX_SKIPS + 10):
        room.add([5000 + number], client=str(number))
    assert len(room.scheduler.admit()) == MAX_SKIPS + 10
