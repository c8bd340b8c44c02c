"""The storm's oracle on histories made by hand: it passes what is right, and names each wrong by its rule."""

import hashlib
from itertools import pairwise

import msgspec
import pytest

from tests.faults import plan, workload
from tests.faults.checker import Bounds, check
from tests.faults.history import Ask, Footprint, Frame, Harm, Heard, History, Hurt, Question, Retained, Story
from tests.faults.plan import BREAKERS, KINDS
from tests.faults.receiver import Receiver

TEXT = "tam pu road 🦙"
ONLINE = Retained(status_state="online", status_boot="b1", has_info=True)
OFFLINE = Retained(status_state="offline", status_boot="b1", has_info=True)


def heard(
    at_s: float, type_: str, *, qos: int = 1, dup: bool = False, run: int = 1, **fields: object
) -> Heard:
    frame = msgspec.convert({"id": "q", "type": type_, "run": run, **fields}, Frame)
    return Heard(at_s, qos, dup, msgspec.json.encode(frame), frame)


def accepted(at_s: float = 1.0, run: int = 1, boot: str = "b1") -> Heard:
    return heard(at_s, "accepted", run=run, boot_id=boot)


def done(at_s: float = 9.0, text: str = TEXT, reason: str = "stop", run: int = 1) -> Heard:
    return heard(at_s, "done", run=run, text=text, finish_reason=reason)


def error(at_s: float, code: str) -> Heard:
    return heard(at_s, "error", code=code)


def story(*frames: Heard, ttl_s: float | None = None, cancelled_at: float | None = None) -> Story:
    question = Question(id="q", prompt="x", seed=1, temperature=0, max_tokens=9, ttl_s=ttl_s)
    return Story(Ask("me", question), sent_at=[0.0], cancelled_at=cancelled_at, heard=list(frames))


def history(*stories: Story, hurts: tuple[Hurt, ...] = ()) -> History:
    return History(
        stories=list(stories),
        hurts=list(hurts),
        expected={"q": TEXT},
        retained=ONLINE,
        retained_after_stop=OFFLINE,
        last_boot="b1",
    )


def rules(what: History) -> set[str]:
    return {violation.rule for violation in check(what)}


def test_an_undisturbed_answer_breaks_nothing() -> None:
    """Accepted, deltas in order, the whole text."""
    deltas = (heard(2, "delta", off=0, text="tam", qos=0), heard(3, "delta", off=3, text=" pu", qos=0))
    assert not rules(history(story(accepted(), *deltas, done())))


def test_a_run_that_begins_again_breaks_nothing() -> None:
    """After the daemon's death the same text comes under a higher run, and its end may come twice."""
    first = (accepted(), heard(2, "delta", off=0, text="tam pu", qos=0))
    again = (accepted(5, run=2, boot="b2"), heard(6, "delta", off=0, text="tam", qos=0, run=2))
    end = done(9, run=2)
    assert not rules(history(story(*first, *again, end, heard_again(end))))


def heard_again(one: Heard) -> Heard:
    return Heard(one.at_s + 1, one.qos, True, one.payload, one.frame)


@pytest.mark.parametrize(
    ("rule", "frames"),
    [
        ("answered", ()),
        ("answered", (accepted(),)),
        ("answered", (error(1, "busy"),)),
        ("answered once", (accepted(), done(9), done(10, reason="length"))),
        ("answered once", (accepted(), done(9), error(10, "internal"))),
        ("answered once", (accepted(), error(8, "busy"), done(9))),
        ("rightly ended", (accepted(), done(text="tam", reason="cancelled"))),
        ("rightly ended", (accepted(), error(9, "internal"))),
        ("rightly ended", (accepted(), error(9, "expired"))),
        ("rightly ended", (accepted(), error(9, "model_unavailable"))),
        ("undisturbed text", (accepted(), done(text="tam pu roaD"))),
        ("undisturbed text", (accepted(), done(text="tam"))),
        ("true offsets", (accepted(), heard(2, "delta", off=4, text="tam"), done())),
        ("true offsets", (accepted(), heard(2, "snapshot", off=0, text="pu"), done())),
        ("received prefix", (accepted(), heard(2, "delta", off=0, text="x", qos=0), done())),
        ("run never decreases", (accepted(1, run=2), accepted(2, run=1), done(run=2))),
        ("remembered", (accepted(), error(2, "not_found"), done())),
        ("no conflict", (accepted(), error(2, "id_conflict"), done())),
    ],
)
def test_a_broken_promise_is_named(rule: str, frames: tuple[Heard, ...]) -> None:
    """One wrong each."""
    assert rule in rules(history(story(*frames)))


def test_text_of_two_boots_under_one_run_is_named() -> None:
    """A box that forgot its run makes a device join texts that need not be one."""
    first = (accepted(1), heard(2, "delta", off=0, text="tam", qos=0))
    second = (accepted(5, boot="b2"), heard(6, "delta", off=0, text="tam pu", qos=0))
    assert rules(history(story(*first, *second, done()))) == {"run counts boots"}


def test_a_run_may_be_heard_of_before_its_acceptance() -> None:
    """What is run again after a death is told at once; `accepted` comes to whoever asks again."""
    first = (accepted(1), heard(2, "delta", off=0, text="tam", qos=0))
    second = (heard(6, "delta", off=0, text="tam pu", qos=0, run=2), accepted(7, run=2, boot="b2"))
    assert not rules(history(story(*first, *second, done(run=2))))


def test_what_was_accepted_is_found() -> None:
    """A `get` before the request may find nothing; after `accepted` it may not."""
    early = story(error(1, "not_found"), accepted(2), done())
    early.got_at = [0.5]
    assert not rules(history(early))
    late = story(accepted(2), error(4, "not_found"), done())
    late.got_at = [3.0]
    assert rules(history(late)) == {"remembered"}


def test_refusals_before_acceptance_are_no_results() -> None:
    """The device asks again under the same id."""
    assert not rules(history(story(error(1, "busy"), error(2, "rate_limited"), accepted(3), done())))


@pytest.mark.parametrize(
    ("frames", "options", "hurts"),
    [
        ((accepted(), error(9, "cancelled")), {"cancelled_at": 2.0}, ()),
        ((accepted(), error(9, "cancelled")), {}, (Hurt(Harm.FORGETTING, 3, 5),)),
        ((accepted(), error(9, "expired")), {"ttl_s": 5.0}, ()),
        ((accepted(), done(9, "tam", "timeout")), {"ttl_s": 5.0}, ()),
        (
            (accepted(), error(9, "internal")),
            {},
            (Hurt(Harm.ENGINE_DEATH, 2, 2), Hurt(Harm.ENGINE_DEATH, 4, 4)),
        ),
    ],
)
def test_an_end_that_something_explains_is_right(
    frames: tuple[Heard, ...], options: dict[str, float], hurts: tuple[Hurt, ...]
) -> None:
    """A cancel, a deadline, a broker that forgot the device, two deaths of the engine."""
    assert not rules(history(story(*frames, **options), hurts=hurts))


def test_a_deadline_explains_no_early_end() -> None:
    """`expired` after one second of five is not for want of time."""
    assert rules(history(story(accepted(), error(1.5, "expired"), ttl_s=5.0))) == {"rightly ended"}


def test_a_cut_may_go_through_a_code_point() -> None:
    """The half that was there is said as such; in an answer that was not cut it is a wrong letter."""
    half = heard(3, "delta", off=12, text="\ufffd", qos=0)
    start = heard(2, "delta", off=0, text="tam pu road ", qos=0)
    cut = done(text="tam pu road \ufffd", reason="cancelled")
    assert not rules(history(story(accepted(), start, half, cut, cancelled_at=4.0)))
    assert "true offsets" in rules(history(story(accepted(), start, half, done())))


def test_chunks_make_the_text() -> None:
    """By offset, held against the digest; with one missing there is no text."""
    raw = TEXT.encode()
    end = heard(9, "done", chunks=2, sha256=hashlib.sha256(raw).hexdigest(), finish_reason="stop")
    chunks = heard(7, "chunk", off=0, text="tam pu"), heard(8, "chunk", off=6, text=" road 🦙")
    assert not rules(history(story(accepted(), *chunks, end)))
    assert rules(history(story(accepted(), chunks[0], end))) == {"undisturbed text"}


def test_what_is_retained_must_be_true() -> None:
    """Online in the calm, of the last boot, described; offline after the stop."""
    wrong = history(story(accepted(), done()))
    wrong.retained = Retained(status_state="degraded", status_boot="b0")
    wrong.retained_after_stop = ONLINE
    assert len([v for v in check(wrong) if v.rule == "retained truth"]) == 4


def test_a_result_that_cannot_be_had_again_is_named() -> None:
    """The calm asks for every result once more."""
    wrong = history(story(accepted(), done()))
    wrong.unrepeated = ["q"]
    assert rules(wrong) == {"repeated on demand"}


def test_a_box_that_does_not_come_back_is_named() -> None:
    """With what it says of itself."""
    wrong = history(story(accepted(), done()))
    wrong.trouble = "the daemon is not online"
    assert rules(wrong) == {"comes back"}


def test_growth_without_bound_is_named() -> None:
    """Each of the four, against the first sample."""
    wrong = history(story(accepted(), done()))
    wrong.footprints = [Footprint(0, 1, 100, 10, 5), Footprint(9, 1, 200, 20, 9, journal_bytes=50)]
    assert not check(wrong)
    bounds = Bounds(private_growth_bytes=50, fd_growth=5, thread_growth=3, journal_bytes=10)
    assert len(check(wrong, bounds)) == 4


def test_a_receiver_follows_the_rule() -> None:
    """Duplicates and gaps change nothing, a higher run begins anew, a shorter snapshot is ignored."""
    receiver = Receiver()
    for one in (
        heard(1, "delta", off=0, text="tam"),
        heard(2, "delta", off=0, text="tam"),
        heard(3, "delta", off=9, text="x"),
        heard(4, "snapshot", off=0, text="ta"),
    ):
        receiver.take(one.frame)
    assert (receiver.buffer, receiver.has_gap) == (b"tam", True)
    receiver.take(heard(5, "snapshot", off=0, text="tam pu").frame)
    assert (receiver.buffer, receiver.has_gap) == (b"tam pu", False)
    receiver.take(heard(6, "delta", run=2, off=0, text="t").frame)
    receiver.take(heard(7, "delta", run=1, off=6, text="old").frame)
    assert receiver.buffer == b"t"


def test_a_plan_is_the_same_for_the_same_seed() -> None:
    """And another for another; every kind comes before any comes twice."""
    assert plan.draw(3, 30, 4) == plan.draw(3, 30, 4) != plan.draw(4, 30, 4)
    assert {fault.kind for fault in plan.draw(3, len(KINDS), 4)} == set(KINDS)


def test_breaks_of_the_daemons_connection_are_not_neighbours() -> None:
    """Two that follow at once would look like a quarrel about its name."""
    kinds = [fault.kind for fault in plan.draw(5, 3 * len(KINDS), 4)]
    assert not any(a in BREAKERS and b in BREAKERS for a, b in pairwise(kinds))


def test_a_workload_is_the_same_for_the_same_seed() -> None:
    """Greedy and sampled, with seeds, cancels, deadlines and sessions among them."""
    asks = workload.in_sessions(workload.draw(3, 200, ["c0", "c1", workload.TALKER]))
    assert asks == workload.in_sessions(workload.draw(3, 200, ["c0", "c1", workload.TALKER]))
    assert {ask.question.temperature > 0 for ask in asks} == {True, False}
    assert {ask.question.session is None for ask in asks} == {True, False}
    assert any(ask.cancel_after_s == 0 for ask in asks)
    assert any(ask.question.ttl_s for ask in asks)
    assert not any(ask.question.ttl_s or ask.cancel_after_s for ask in workload.undisturbed(asks))


def test_no_daemon_dies_right_after_its_disk_was_full() -> None:
    """The journal may not have caught up; every kind still comes as often as another."""
    for seed in range(50):
        kinds = [fault.kind for fault in plan.draw(seed, 100, 5)]
        assert ("disk full", "daemon kill") not in list(pairwise(kinds))
        assert {kinds.count(kind) for kind in plan.KINDS} <= {4, 5}
