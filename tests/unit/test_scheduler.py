"""The scheduler: who gets a slot, who is in the next batch, and who has to wait again."""

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine.batch import Batch
from agent.engine.detokenizer import Detokenizer
from agent.engine.kv_cache import KVCache
from agent.engine.pool import Pool
from agent.engine.sampler import Sampler
from agent.engine.scheduler import MAX_SKIPS, Scheduler
from agent.engine.sequence import NO_SLOT, Sequence
from agent.engine.waiting import QUANTUM
from agent.request import Sampling
from tests.support.fake_backend import FakeBackend

keys = count(1)


class Room:
    """A scheduler, its ledger and a fake backend, with the engine's part of a step on one line."""

    def __init__(self, *, num_cells: int = 1000, num_slots: int = 4, n_batch: int = 32) -> None:
        self.backend = FakeBackend(num_cells=num_cells, num_slots=num_slots, n_batch=n_batch)
        self.kv = KVCache(self.backend, Pool(self.backend, n_ctx=num_cells))
        self.scheduler = Scheduler(self.kv, n_batch)

    def sequence(self, *, client: str = "a", num_prompt: int = 4, max_tokens: int = 8) -> Sequence:
        key = next(keys)
        return Sequence(
            key=key,
            client=client,
            # Nobody begins like anybody else: what is shared has its own tests.
            tokens=[1000 * key + index for index in range(num_prompt)],
            num_prompt=num_prompt,
            max_tokens=max_tokens,
            sampler=Sampler(self.backend, Sampling(seed=0, temperature=0.0)),
            detokenizer=Detokenizer(),
        )

    def add(self, *, client: str = "a", num_prompt: int = 4, max_tokens: int = 8) -> Sequence:
        sequence = self.sequence(client=client, num_prompt=num_prompt, max_tokens=max_tokens)
        self.scheduler.add(sequence)
        return sequence

    def step(self, prefill_rows: int = 32) -> Batch:
        """Admit, schedule, decode; whoever has logits takes one more token or is done."""
        self.scheduler.admit()
        batch = self.scheduler.schedule(prefill_rows)
        assert self.backend.decode(batch) == 0
        for chunk in batch.chunks:
            self.kv.note_computed(chunk.sequence, chunk.count)
            if chunk.output_row is not None:
                chunk.sequence.tokens.append(chunk.sequence.sampler.sample(chunk.output_row))
                if chunk.sequence.num_generated >= chunk.sequence.max_tokens:
                    self.scheduler.remove(chunk.sequence)
        return batch


def test_clients_take_turns_whatever_one_of_them_queues() -> None:
    """A burst of one client delays another client's request by one turn, not by the burst."""
    room = Room(num_slots=3)
    burst = [room.add(client="burst") for _ in range(10)]
    quiet = room.add(client="quiet")
    assert room.scheduler.admit() == [burst[0], quiet, burst[1]]


def test_a_client_s_own_requests_keep_their_order() -> None:
    room = Room(num_slots=2)
    sequences = [room.add() for _ in range(3)]
    assert room.scheduler.admit() == sequences[:2]


def test_a_request_waits_while_all_slots_are_taken() -> None:
    room = Room(num_slots=1)
    first, second = room.add(), room.add()
    assert room.scheduler.admit() == [first]
    assert room.scheduler.admit() == []
    room.scheduler.remove(first)
    assert room.scheduler.admit() == [second]


def test_a_request_is_admitted_only_with_cells_for_its_prompt_and_a_reserve() -> None:
    """The reserve is what its answer may take at most, but no more than 128 cells."""
    room = Room(num_cells=100)
    room.add(num_prompt=40, max_tokens=10)
    fits = room.add(num_prompt=40, max_tokens=20)
    room.add(num_prompt=1, max_tokens=20)
    assert fits in room.scheduler.admit()
    assert room.scheduler.num_waiting == 1


def test_alone_a_request_may_have_the_whole_pool() -> None:
    """A prompt that leaves no room for its reserve still starts when nobody else runs."""
    room = Room(num_cells=100)
    large = room.add(num_prompt=99, max_tokens=500)
    assert room.scheduler.admit() == [large]


def test_small_requests_pass_a_large_one_that_does_not_fit_yet() -> None:
    room = Room(num_cells=100)
    room.add(client="a", num_prompt=50)
    large = room.add(client="b", num_prompt=60)
    small = room.add(client="c")
    admitted = room.scheduler.admit()
    assert small in admitted
    assert large not in admitted


def rounds(num_tokens: int) -> int:
    """After so many a client can pay for this."""
    return -(-num_tokens // QUANTUM)


def test_a_large_request_is_passed_a_bounded_number_of_times() -> None:
    """In the rounds it is saving up for its size, then MAX_SKIPS times; then it holds the door."""
    room = Room(num_cells=100, num_slots=4)
    stay = room.add(client="stay", num_prompt=30, max_tokens=1)
    assert room.scheduler.admit() == [stay]
    large = room.add(client="large", num_prompt=90, max_tokens=1)
    num_passed = 0
    while small := (room.add(client="small", max_tokens=1), room.scheduler.admit())[1]:
        num_passed += len(small)
        for sequence in small:
            room.scheduler.remove(sequence)
    assert MAX_SKIPS <= num_passed <= MAX_SKIPS + rounds(91)
    room.scheduler.remove(stay)
    assert room.scheduler.admit()[0] is large


def test_a_preempted_request_that_comes_back_does_not_let_more_pass() -> None:
    """Its return is no fresh start for the count of those that passed the large one."""
    room = Room(num_cells=100, num_slots=4)
    room.add(client="stay", num_prompt=30, max_tokens=1)
    room.scheduler.admit()
    room.add(client="large", num_prompt=90, max_tokens=1)
    num_passed = 0
    for _ in range(2 * MAX_SKIPS):
        leaving, passing = (room.add(client="small", max_tokens=1) for _ in range(2))
        num_passed += len(room.scheduler.admit())
        if passing.slot == NO_SLOT:
            break
        assert room.scheduler.preempt_last()
        room.scheduler.remove(leaving)
        assert room.scheduler.admit() == [passing]
        room.scheduler.remove(passing)
    assert MAX_SKIPS <= num_passed <= MAX_SKIPS + rounds(91) * QUANTUM // 5  # a small one costs five tokens


def test_streams_come_before_prompts_in_a_batch() -> None:
    """A prompt, however early it came, never costs a stream its place."""
    room = Room(n_batch=8)
    long = room.add(client="long", num_prompt=100)
    streams = [room.add(client=name) for name in "xy"]
    room.scheduler.admit()
    for stream in streams:
        stream.tokens.append(0)
        stream.num_computed = stream.num_prompt
    batch = room.scheduler.schedule(prefill_rows=8)
    assert [chunk.sequence for chunk in batch.chunks] == [*streams, long]
    assert [chunk.count for chunk in batch.chunks] == [1, 1, 6]


@pytest.mark.parametrize("prefill_rows", [1, 5, 32, 1000])
def test_prompts_get_no_more_rows_than_given_and_no_more_than_the_batch_has(prefill_rows: int) -> None:
    room = Room(n_batch=32)
    for client in "abc":
        room.add(client=client, num_prompt=20)
    room.scheduler.admit()
    assert len(room.scheduler.schedule(prefill_rows)) == min(prefill_rows, 32)


def test_only_the_last_row_of_a_whole_prompt_asks_for_logits() -> None:
    room = Room()
    room.add(num_prompt=20)
    room.scheduler.admit()
    assert not any(room.scheduler.schedule(19).outputs)
    assert room.scheduler.schedule(20).outputs == [False] * 19 + [True]


def test_the_one_admitted_last_gives_way_when_the_cells_run_out() -> None:
    """It keeps its tokens, loses its cells and is the first to come back."""
    room = Room(num_cells=40)
    first = room.add(num_prompt=10, max_tokens=10)
    last = room.add(client="b", num_prompt=10, max_tokens=10)
    room.step()
    first.tokens += [0] * 20
    room.scheduler.schedule(32)
    assert room.scheduler.running == [first]
    assert (last.slot, last.num_computed, last.num_generated) == (NO_SLOT, 0, 1)
    room.scheduler.remove(first)
    assert room.scheduler.admit() == [last]
    assert room.scheduler.num_preemptions == 1


def test_after_llama_cpp_had_no_cells_nobody_is_admitted_until_somebody_leaves() -> None:
    """The ledger may see room where there is none; the same request must not come and go for ever."""
    room = Room()
    first, last = room.add(), room.add()
    room.scheduler.admit()
    room.scheduler.preempt_last(keep=False)
    assert room.scheduler.admit() == []
    room.scheduler.remove(first)
    assert room.scheduler.admit() == [last]


def test_the_only_running_request_is_never_preempted() -> None:
    room = Room()
    room.add()
    room.scheduler.admit()
    assert not room.scheduler.preempt_last()


def test_removing_frees_the_cells_of_a_running_request_and_the_place_of_a_waiting_one() -> None:
    room = Room(num_slots=1)
    running, waiting = room.add(), room.add()
    room.step()
    assert room.backend.num_used == 4
    room.scheduler.remove(waiting)
    room.scheduler.remove(running)
    room.scheduler.remove(running)
    assert room.scheduler.is_idle
    assert room.kv.num_used == 0
    room.kv.drop_cached()
    assert room.backend.num_used == room.kv.num_resident == 0
    assert room.kv.check_integrity() == []


def test_the_integrity_check_names_the_slot_where_ledger_and_library_disagree() -> None:
    """Cells the library holds and the ledger does not, or the other way round."""
    room = Room()
    sequence = room.add()
    room.step()
    assert room.kv.check_integrity() == []
    room.backend.remove(sequence.slot, 3)
    assert room.kv.check_integrity() == [f"slot {sequence.slot} holds 3 positions, the ledger says 4"]
    room.scheduler.remove(sequence)
    room.kv.drop_cached()
    room.backend.decode(Batch(tokens=[7] * 3, positions=[0, 1, 2], slots=[2] * 3, outputs=[False] * 3))
    assert room.kv.check_integrity() == ["slot 2 holds 3 positions, the ledger says 0"]


requests = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 60), st.integers(1, 30)), min_size=1, max_size=25
)


@given(requests, st.integers(61, 150), st.integers(1, 5), st.integers(8, 40))
def test_every_request_gets_its_tokens_and_the_pool_is_never_exceeded(
    asked: list[tuple[str, int, int]], num_cells: int, num_slots: int, prefill_rows: int
) -> None:
    """Whatever is asked of however small a pool: all end with what they asked for."""
    room = Room(num_cells=num_cells, num_slots=num_slots)
    sequences = [
        room.add(client=client, num_prompt=num_prompt, max_tokens=min(max_tokens, num_cells - num_prompt))
        for client, num_prompt, max_tokens in asked
    ]
    for _ in range(5000):
        if room.scheduler.is_idle:
            break
        assert len(room.step(prefill_rows)) > 0
        assert room.kv.num_used <= num_cells + num_slots
    assert [sequence.num_generated for sequence in sequences] == [
        sequence.max_tokens for sequence in sequences
    ]
    assert room.backend.max_used <= num_cells
    assert room.kv.check_integrity() == []


@given(requests, st.integers(61, 150), st.integers(1, 5))
def test_whoever_is_first_in_line_is_passed_a_bounded_number_of_times(
    asked: list[tuple[str, int, int]], num_cells: int, num_slots: int
) -> None:
    """Small requests keep coming for as long as a large one waits; it gets its turn all the same."""
    room = Room(num_cells=num_cells, num_slots=num_slots)
    room.add(client="early", num_prompt=num_cells // 2, max_tokens=3)
    room.step()
    large = room.add(client="large", num_prompt=num_cells - 5, max_tokens=5)
    passed: set[int] = set()
    for client, num_prompt, max_tokens in asked * MAX_SKIPS:
        if large.slot != NO_SLOT:
            break
        room.add(client=client, num_prompt=num_prompt, max_tokens=min(max_tokens, num_cells - num_prompt))
        admitted = room.scheduler.admit()
        before = admitted[: admitted.index(large)] if large in admitted else admitted
        passed |= {sequence.key for sequence in before}
        room.step()
    while large.slot == NO_SLOT and not large.num_generated:
        room.step()
    # While it saves up, every other client may spend as much in requests of two tokens at least.
    num_clients = len({client for client, _, _ in asked})
    assert len(passed) <= MAX_SKIPS + num_clients * rounds(num_cells) * QUANTUM // 2
