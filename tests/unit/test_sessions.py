"""Conversations: exactly the turns that ended by themselves are remembered, one at a time, within bounds."""

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.answer import Answer
from agent.config import ClientRules, Config, Limits
from agent.errors import Busy, Cancelled, RateLimited
from agent.request import (
    Delta,
    Finished,
    FinishReason,
    Message,
    Request,
    Sampling,
    Timings,
    Usage,
)
from agent.rules import Rules
from agent.sessions import MESSAGE_BYTES, Sessions

NOTHING = Usage(0, 0, 0), Timings(0, 0, 0)


def user(text: str) -> Message:
    return Message("user", text)


def said(text: str) -> Message:
    return Message("assistant", text)


def system(text: str) -> Message:
    return Message("system", text)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Room:
    """Sessions, and what the engine client does to them."""

    def __init__(self, limits: Limits | None = None, rules: Rules | None = None) -> None:
        self.clock = Clock()
        self.sessions = Sessions(limits or Limits(), self.clock, rules)
        self._next_key = 1

    def ask(
        self, *messages: Message | str, session: str | None = "s", client: str = "c", replaces: bool = False
    ) -> Answer:
        turns = tuple(user(m) if isinstance(m, str) else m for m in messages)
        request = Request(client, str(self._next_key), turns, Sampling(seed=0), 10, session=session)
        answer = Answer(self._next_key, request)
        self._next_key += 1
        self.sessions.enter(answer, replaces_history=replaces)
        return answer

    def end(self, answer: Answer, text: str = "ok", reason: FinishReason = FinishReason.STOP) -> None:
        answer.take(Delta(text=text, tokens=(1,), draws=0))
        answer.take(Finished(reason, *NOTHING))
        self.sessions.leave(answer)

    def fail(self, answer: Answer) -> None:
        answer.fail(Cancelled("no more"))
        self.sessions.leave(answer)

    def talk(self, *messages: Message | str, text: str = "ok", **where: str) -> Answer:
        """One request from beginning to end."""
        answer = self.ask(*messages, **where)  # type: ignore[arg-type]
        self.end(answer, text)
        return answer


# ---- what is remembered --------------------------------------------------------------------------


def test_a_prompt_comes_after_all_that_was_said() -> None:
    """The second request holds the first one and its answer."""
    room = Room()
    room.talk("one", text="first")
    assert room.ask("two").request.messages == (user("one"), said("first"), user("two"))


@pytest.mark.parametrize("reason", [FinishReason.STOP, FinishReason.LENGTH])
def test_an_answer_that_ended_by_itself_is_kept(reason: FinishReason) -> None:
    """Cut by its max_tokens, too: the device has it all."""
    room = Room()
    room.end(room.ask("one"), "first", reason)
    assert room.sessions.history("c", "s") == (user("one"), said("first"))


@pytest.mark.parametrize("reason", [FinishReason.CANCELLED, FinishReason.TIMEOUT])
def test_an_answer_that_was_cut_off_is_not_kept(reason: FinishReason) -> None:
    """Nor is its question, nor the system prompt it brought."""
    room = Room()
    room.talk(system("A"), "one", text="first")
    room.end(room.ask(system("B"), "two"), "half", reason)
    room.fail(room.ask(system("C"), "three"))
    expected = (system("A"), user("one"), said("first"), user("four"))
    assert room.ask("four").request.messages == expected


def test_messages_put_another_history_in_place_of_the_old() -> None:
    """When their answer is kept; until then the old one stands."""
    room = Room()
    room.talk("one")
    whole = (user("a"), said("b"), user("c"))
    room.fail(room.ask(*whole, replaces=True))
    assert room.sessions.history("c", "s") == (user("one"), said("ok"))
    answer = room.ask(*whole, replaces=True)
    assert answer.request.messages == whole
    room.end(answer, "d")
    assert room.sessions.history("c", "s") == (*whole, said("d"))


def test_the_system_prompt_stays_in_front_until_another_one_comes() -> None:
    """It is no part of the history, so that it never stands in the middle."""
    room = Room()
    room.talk(system("Be brief."), "one")
    room.talk("two")
    third = room.talk(system("Be kind."), "three")
    assert third.request.messages[0] == system("Be kind.")
    assert [m.role for m in third.request.messages].count("system") == 1
    replacing = room.ask("four", replaces=True)
    assert replacing.request.messages == (system("Be kind."), user("four"))


def test_sessions_are_each_clients_own() -> None:
    """The same name from another client is another conversation; so is another name."""
    room = Room()
    room.talk("mine")
    assert room.ask("x", client="d").request.messages == (user("x"),)
    assert room.ask("x", session="t").request.messages == (user("x"),)


def test_a_request_without_a_session_passes_through() -> None:
    """It is nobody's turn, held by nobody, remembered nowhere."""
    room = Room()
    first, second = room.ask("one", session=None), room.ask("two", session=None)
    assert not room.sessions.is_held(first)
    assert not room.sessions.is_held(second)
    room.end(first)
    assert len(room.sessions) == 0


# ---- one after another ---------------------------------------------------------------------------


def test_a_later_request_waits_and_knows_what_the_earlier_ones_brought() -> None:
    """Its messages are put together when its turn comes, not when it arrived."""
    room = Room()
    first, second, third = room.ask("one"), room.ask("two"), room.ask("three")
    assert [room.sessions.is_held(a) for a in (first, second, third)] == [False, True, True]
    assert room.sessions.under_way(third.request) == [first, second, third]
    room.end(first, "1")
    assert not room.sessions.is_held(second)
    assert second.request.messages == (user("one"), said("1"), user("two"))
    room.fail(second)
    assert third.request.messages == (user("one"), said("1"), user("three"))


def test_who_leaves_the_line_early_moves_nobody_past_the_running_one() -> None:
    """A cancel while waiting: those behind move up, the running one runs on."""
    room = Room()
    room.talk("zero", text="0")
    first, second, third = room.ask("one"), room.ask("two"), room.ask("three")
    room.fail(second)
    assert first.request.messages == (user("zero"), said("0"), user("one"))
    assert room.sessions.is_held(third)
    room.end(first, "1")
    assert third.request.messages[2:] == (user("one"), said("1"), user("three"))


def test_a_conversation_in_which_nothing_was_kept_leaves_nothing() -> None:
    """Failed first requests take no place."""
    room = Room()
    room.fail(room.ask("one"))
    assert len(room.sessions) == 0
    assert room.sessions.under_way(room.ask("two", session="other").request) != []


# ---- bounds --------------------------------------------------------------------------------------


def test_the_oldest_whole_turns_go_when_a_history_is_too_large() -> None:
    """A question never goes without its answer."""
    turn = 2 * (MESSAGE_BYTES + 50)
    room = Room(Limits(session_bytes=2 * turn + 10))
    for number in range(4):
        room.talk(f"{number}" * 50, text="é" * 25)
    assert room.sessions.history("c", "s") == (user("2" * 50), said("é" * 25), user("3" * 50), said("é" * 25))


def test_a_turn_larger_than_all_that_may_be_kept_is_not() -> None:
    """The conversation begins anew, under the same system prompt."""
    room = Room(Limits(session_bytes=256))
    room.talk(system("Be brief."), "x" * 300)
    assert room.ask("next").request.messages == (system("Be brief."), user("next"))


def test_turns_of_several_messages_go_together() -> None:
    """A turn begins after what the assistant said: two questions in a row are one turn."""
    room = Room(Limits(session_bytes=300))
    room.end(room.ask(user("a" * 120), user("b"), said("c"), user("d"), replaces=True), "e")
    assert room.sessions.history("c", "s") == (user("d"), said("e"))


def test_a_conversation_nobody_goes_on_with_is_forgotten() -> None:
    """After session_ttl_s without a request; each one starts the time anew."""
    room = Room(Limits(session_ttl_s=100))
    room.talk("one")
    room.clock.now = 99
    room.talk("two")
    room.clock.now = 198
    assert len(room.ask("three", session="s").request.messages) == 5
    room.clock.now = 1000
    assert room.ask("four").request.messages == (user("four"),), "it waits: a running one is not idle"
    room = Room(Limits(session_ttl_s=100))
    room.talk("one")
    room.clock.now = 100
    assert room.ask("two").request.messages == (user("two"),)


def test_idle_sessions_give_way_the_longest_unused_first() -> None:
    """For the box's bound, whoever's it is; a busy one never."""
    room = Room(Limits(sessions=3, sessions_per_client=3))
    busy = room.ask("x", client="a")
    room.talk("x", client="b")
    room.talk("x", client="c")
    room.talk("again", client="b")
    room.talk("x", client="d")
    assert room.sessions.history("c", "s") == ()
    assert room.sessions.history("b", "s") != ()
    assert not room.sessions.is_held(busy)
    assert len(room.sessions) == 3


def test_a_client_has_its_own_bound() -> None:
    """Its own idle session gives way, nobody else's; with none idle it is told so."""
    room = Room(Limits(sessions=10, sessions_per_client=2))
    room.talk("x", client="other")
    room.talk("x", session="1")
    room.talk("x", session="2")
    first = room.ask("x", session="3")
    assert room.sessions.history("c", "1") == ()
    room.ask("x", session="4")
    with pytest.raises(RateLimited):
        room.ask("x", session="5")
    assert room.sessions.history("other", "s") != ()
    room.end(first)
    room.ask("x", session="5")


def test_a_box_whose_sessions_are_all_busy_says_so() -> None:
    """Another request in one of them is still taken."""
    room = Room(Limits(sessions=2))
    room.ask("x", client="a")
    room.ask("x", client="b")
    with pytest.raises(Busy):
        room.ask("x", client="d")
    room.ask("y", client="a")


# One conversation is in most of it, so that it grows long.
WHO = st.sampled_from([("a", "x")] * 6 + [("a", "y"), ("a", "z"), ("b", "x"), ("b", "y")])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "replace", "end", "cut", "fail", "wait"]),
        WHO,
        st.integers(0, 5),
        st.text(max_size=60),
    ),
    min_size=20,
    max_size=60,
)
KEPT = {"end": FinishReason.STOP, "cut": FinishReason.CANCELLED}


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_any_interleaving_leaves_exactly_the_kept_turns(steps) -> None:  # type: ignore[no-untyped-def]
    """Against the plainest model: a list of what was kept, of which the newest turns are there."""
    limits = Limits(sessions=3, sessions_per_client=2, session_bytes=300, session_ttl_s=50)
    room = Room(limits)
    kept: dict[tuple[str, str], list[Message]] = defaultdict(list)
    lines: dict[tuple[str, str], list[tuple[Answer, str, bool]]] = defaultdict(list)

    for action, who, place, text in steps:
        client, name = who
        before = room.sessions.history(client, name)
        line = lines[who]
        if action in ("ask", "replace"):
            try:
                answer = room.ask(text, client=client, session=name, replaces=action == "replace")
            except (RateLimited, Busy):
                assert not line, "a session that is in use takes more"
                continue
            line.append((answer, text, action == "replace"))
        elif action == "wait":
            room.clock.now += 10 * place
        elif line:
            # Any may fail, in line or not; only the running one can end.
            answer, question, replaces = line.pop(place % len(line) if action == "fail" else 0)
            if action == "fail":
                room.fail(answer)
            else:
                room.end(answer, text, KEPT[action])
            if action == "end":
                history = [] if replaces else list(before)
                kept[who] = [*history, user(question), said(text)]
                now = room.sessions.history(client, name)
                larger = kept[who][-len(now) - 2 :]
                assert len(now) == len(kept[who]) or size(larger) > limits.session_bytes, "nothing goes early"
            else:
                assert room.sessions.history(client, name) == before
        check(room, limits, kept, lines)


def size(messages) -> int:  # type: ignore[no-untyped-def]
    return sum(MESSAGE_BYTES + len(message.content.encode()) for message in messages)


def check(room: Room, limits: Limits, kept, lines) -> None:  # type: ignore[no-untyped-def]
    assert len(room.sessions) <= limits.sessions
    for client in "ab":
        own = [1 for (owner, name) in kept if owner == client and room.sessions.history(owner, name)]
        assert len(own) <= limits.sessions_per_client
    for (client, name), messages in kept.items():
        history = room.sessions.history(client, name)
        # All of it, its newest turns, or forgotten; never something else, never half a turn.
        assert list(history) == messages[len(messages) - len(history) :]
        assert len(history) % 2 == 0
        assert size(history) <= limits.session_bytes
    for (client, name), line in lines.items():
        assert [room.sessions.is_held(answer) for answer, *_ in line] == [n > 0 for n in range(len(line))]
        if line:
            running, question, replaces = line[0]
            history = () if replaces else room.sessions.history(client, name)
            assert running.request.messages == (*history, user(question))
            assert room.sessions.under_way(line[0][0].request) == [answer for answer, *_ in line]


def test_a_client_s_rules_cut_its_sessions_down() -> None:
    """One at a time for whom the table says so; its idle one gives way to a new one."""
    room = Room(rules=Rules(Config(clients={"c": ClientRules(sessions=1)})))
    room.talk("x", session="first")
    busy = room.ask("x", session="second")
    assert room.sessions.history("c", "first") == ()
    with pytest.raises(RateLimited, match="has 1 sessions"):
        room.ask("x", session="third")
    room.ask("x", session="third", client="other")
    room.ask("x", session="fourth", client="other")
    room.end(busy)
    room.ask("x", session="third")


# ---- over a restart ------------------------------------------------------------------------------


class Notebook:
    """What the next daemon finds, the oldest first."""

    def __init__(self) -> None:
        self.notes: dict[tuple[str, str], bytes] = {}

    def write(self, key: tuple[str, str], kept: bytes | None, _: Answer | None = None) -> None:
        self.notes.pop(key, None)
        if kept is not None:
            self.notes[key] = kept

    def room(self, wall: float | None, limits: Limits | None = None) -> Room:
        """A daemon that starts at this Unix time with these notes."""
        room = Room(limits)
        room.sessions.on_change, room.sessions.wall = self.write, lambda: wall
        for key, kept in list(self.notes.items()):
            room.sessions.restore(key, kept)
        return room


@pytest.mark.parametrize(("wall", "count"), [(3600.0, 2), (4599.0, 2), (4601.0, 0), (None, 2), (0.0, 2)])
def test_a_conversation_grows_old_while_the_box_is_off(wall: float | None, count: int) -> None:
    """As far as the time is known: after session_ttl_s it is forgotten, here and on disk."""
    notebook = Notebook()
    notebook.room(1000.0).talk("one")
    room = notebook.room(wall)
    assert len(room.sessions.history("c", "s")) == count
    assert len(notebook.notes) == bool(count)


def test_the_rest_of_its_time_is_what_was_left() -> None:
    """It is not as good as new after every start."""
    notebook = Notebook()
    notebook.room(1000.0).talk("one")
    room = notebook.room(4000.0)
    room.clock.now = 601.0
    assert room.ask("two").request.messages == (user("two"),)


def test_of_too_many_the_newest_are_restored() -> None:
    """There were more when the limits were wider."""
    notebook = Notebook()
    room = notebook.room(1000.0)
    for name in ("old", "middle", "new"):
        room.talk("one", session=name)
    room = notebook.room(1001.0, Limits(sessions=2))
    assert [len(room.sessions.history("c", name)) for name in ("old", "middle", "new")] == [0, 2, 2]
