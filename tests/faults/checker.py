"""The oracle: reads a history and names every promise that was broken. Pure; it sees what devices saw.

Each rule is a function over one story or over the history, and yields violations.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.faults.history import Harm, Heard, History, Story, is_refusal
from tests.faults.receiver import Receiver

MIB = 1 << 20
# What the engine says for the bytes of a code point that did not come to its end.
HALF = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the daemon may take beyond what it took at first, and the journal's folder in all."""

    private_growth_bytes: int = 32 * MIB
    fd_growth: int = 40
    thread_growth: int = 16
    journal_bytes: int = 16 * MIB


@dataclass(frozen=True, slots=True)
class Violation:
    """`rule` is the name of the promise, `id` the request it was broken on, if any."""

    rule: str
    id: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.id}: {self.what}" if self.id else f"{self.rule}: {self.what}"


def check(history: History, bounds: Bounds = Bounds()) -> list[Violation]:
    """All violations, in the order of the requests; none is what is wanted."""
    found = [
        Violation(rule.__name__.replace("_", " "), story.ask.id, what)
        for story in history.stories
        for rule in STORY_RULES
        for what in rule(story, history)
    ]
    found += [
        Violation(rule.__name__.replace("_", " "), "", what) for rule in RULES for what in rule(history)
    ]
    return [*found, *(Violation("bounded", "", what) for what in unbounded(history, bounds))]


# ---- one request ---------------------------------------------------------------------------------


def answered(story: Story, _: History) -> Iterator[str]:
    """Every id that was sent has a result in the end."""
    if story.sent_at and not story.results:
        heard = ", ".join(one.frame.type for one in story.heard[-5:]) or "nothing"
        said = "accepted" if story.accepted else "acknowledged" if story.acked_at else "sent"
        yield f"{said}, and never answered; heard last: {heard}"


def answered_once(story: Story, _: History) -> Iterator[str]:
    """One result; whatever repeats it is the same byte for byte."""
    different = list(dict.fromkeys(one.payload for one in story.results))
    if len(different) > 1:
        yield f"{len(different)} results: {different[0][:160]!r} and {different[1][:160]!r}"


def rightly_ended(story: Story, history: History) -> Iterator[str]:
    """The end is one that something in its life explains."""
    for one in story.results[:1]:
        if why := _unexplained(story, one, history):
            yield f"ended in {one.frame.code or one.frame.finish_reason}, {why}"


def undisturbed_text(story: Story, history: History) -> Iterator[str]:
    """`done` has the text that the model gives undisturbed; one that was cut, a beginning of it."""
    expected = history.expected.get(story.ask.id)
    for one in story.results[:1]:
        if expected is None or one.frame.type != "done":
            continue
        text = whole_text(story)
        if text is None:
            yield "the chunks do not make the whole text"
        elif one.frame.finish_reason in ("stop", "length") and text != expected:
            yield f"{text[:60]!r} and not {expected[:60]!r}"
        elif not _stands_at(0, text, expected, story):
            yield f"{text[:60]!r} is no beginning of {expected[:60]!r}"


def true_offsets(story: Story, history: History) -> Iterator[str]:
    """What a delta, snapshot or chunk says stands in the text where it says so."""
    expected = history.expected.get(story.ask.id)
    for one in story.heard:
        off, text = one.frame.off, one.frame.text
        if expected is None or off is None or text is None:
            continue
        if not _stands_at(off, text, expected, story):
            yield f"a {one.frame.type} at {off} of run {one.frame.run} says {text[:40]!r}"
            return


def received_prefix(story: Story, history: History) -> Iterator[str]:
    """A device that follows the rule has, at every moment, a beginning of the text."""
    expected = history.expected.get(story.ask.id)
    if expected is None:
        return
    receiver = Receiver()
    for one in story.heard:
        receiver.take(one.frame)
        if not _stands_at(0, receiver.buffer.decode(), expected, story):
            yield f"after {one.frame.type} (run {one.frame.run}) the device has {receiver.buffer[:60]!r}"
            return


def run_never_decreases(story: Story, _: History) -> Iterator[str]:
    """At each QoS for itself: MQTT orders no more. What the broker repeats does not count."""
    for qos in (0, 1):
        runs = [
            one.frame.run for one in story.heard if one.qos == qos and not one.is_duplicate and _counts(one)
        ]
        if runs != sorted(runs):
            yield f"the runs at QoS {qos} are {runs}"


def run_counts_boots(story: Story, _: History) -> Iterator[str]:
    """Text of a later boot comes under a higher run, or a device would join texts of two runs."""
    boots: dict[int, str] = {}
    with_text: set[int] = set()
    for one in story.heard:
        run, boot = one.frame.run, one.frame.boot_id
        if one.frame.type in ("delta", "snapshot"):
            with_text.add(run)
        elif one.frame.type != "accepted" or boot is None or one.is_duplicate:
            continue
        elif boots.setdefault(run, boot) != boot and run in with_text:
            yield f"run {run} is of boot {boots[run]}, gave text, and is of boot {boot}"
            return


def remembered(story: Story, _: History) -> Iterator[str]:
    """Whoever was accepted is found by `get`."""
    for one in story.heard:
        asked = max((at for at in story.got_at if at < one.at_s), default=None)
        if one.frame.code == "not_found" and asked is None:
            yield "not_found without a get"
        elif one.frame.code == "not_found" and story.accepted and asked and story.accepted.at_s < asked:
            yield "not_found, after it was accepted"


def no_conflict(story: Story, _: History) -> Iterator[str]:
    """The same id with the same payload is never a conflict."""
    if any(one.frame.code == "id_conflict" for one in story.heard):
        yield "id_conflict for the same payload"


def repeated_on_demand(story: Story, history: History) -> Iterator[str]:
    """Who sends it again in the calm, or asks for it by `get`, is told again."""
    if story.ask.id in history.unrepeated:
        yield "the result was asked for again and did not come"


STORY_RULES: tuple[Callable[[Story, History], Iterator[str]], ...] = (
    answered,
    answered_once,
    rightly_ended,
    undisturbed_text,
    true_offsets,
    received_prefix,
    run_never_decreases,
    run_counts_boots,
    remembered,
    no_conflict,
    repeated_on_demand,
)


def whole_text(story: Story) -> str | None:
    """The text of the story's `done`, put together from chunks if need be."""
    receiver = Receiver()
    for one in story.heard:
        receiver.take(one.frame)
    return receiver.text


def _stands_at(off: int, text: str, expected: str, story: Story) -> bool:
    """The text is found there. That of an answer that was cut may end in a code point cut in half."""
    raw, whole = text.encode(), expected.encode()
    if whole[off : off + len(raw)] == raw:
        return True
    is_cut = any(one.frame.finish_reason in ("cancelled", "timeout") for one in story.results)
    return is_cut and text.endswith(HALF) and whole[off:].startswith(raw.removesuffix(HALF.encode()))


def _counts(one: Heard) -> bool:
    """Refusals and answers to `get` are of no run."""
    return not is_refusal(one.frame) and one.frame.code != "not_found"


def _unexplained(story: Story, end: Heard, history: History) -> str:
    """Why this end is not one that may be, or nothing."""
    start, at = (story.sent_at or [0.0])[0], end.at_s
    match end.frame.code or end.frame.finish_reason:
        case "stop" | "length":
            return ""
        case "cancelled":
            # A broker that forgot the device's session says that nobody listens: then it is cancelled.
            is_gone = history.num_hurts(Harm.FORGETTING, start, at) > 0
            return "" if story.cancelled_at is not None or is_gone else "and nobody cancelled it"
        case "expired" | "timeout" if story.ask.question.ttl_s is not None:
            is_late = at - start >= story.ask.question.ttl_s * 0.9
            return "" if is_late else f"after {at - start:.1f} s of {story.ask.question.ttl_s} s"
        case "internal":
            deaths = history.num_hurts(Harm.ENGINE_DEATH, start, at)
            return "" if deaths > 1 else f"after {deaths} deaths of the engine"
        case _:
            return "which nothing explains"


# ---- the whole -----------------------------------------------------------------------------------


def no_stranger(history: History) -> Iterator[str]:
    """No frame is about an id that nobody asked for: each story knows its own only."""
    for story in history.stories:
        if any(one.frame.id != story.ask.id for one in story.heard):
            yield f"{story.ask.id} heard of another id"


def retained_truth(history: History) -> Iterator[str]:
    """A newcomer finds the box online and described, and offline after its stop."""
    if history.retained.status_state not in history.states_in_calm:
        yield f"status is {history.retained.status_state!r} in the calm after the storm"
    if history.last_boot and history.retained.status_boot != history.last_boot:
        yield "status is of another boot"
    if not history.retained.has_info:
        yield "there is no info"
    if history.retained_after_stop.status_state != "offline":
        yield f"status is {history.retained_after_stop.status_state!r} after the stop"


def comes_back(history: History) -> Iterator[str]:
    """When nothing happens any more the box is online again."""
    if history.trouble:
        yield history.trouble


RULES: tuple[Callable[[History], Iterator[str]], ...] = (
    no_stranger,
    retained_truth,
    comes_back,
)


def unbounded(history: History, bounds: Bounds) -> Iterator[str]:
    """Memory, descriptors and threads of each boot against the first sample; the journal's folder."""
    if not history.footprints:
        return
    first = history.footprints[0]
    limits = (
        ("private_bytes", first.private_bytes + bounds.private_growth_bytes),
        ("num_fds", first.num_fds + bounds.fd_growth),
        ("num_threads", first.num_threads + bounds.thread_growth),
        ("journal_bytes", bounds.journal_bytes),
    )
    for name, limit in limits:
        highest = max(getattr(one, name) for one in history.footprints)
        if highest > limit:
            yield f"{name} reached {highest}, more than {limit}"
