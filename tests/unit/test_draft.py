"""From what a client wrote to a request within the box's limits."""

from typing import Any

import pytest

from agent.config import Limits, Profile
from agent.draft import DEFAULT_MAX_TOKENS, MAX_MESSAGES, Draft, to_request
from agent.errors import BadRequest, NotFound
from agent.request import DEFAULT_TEMPERATURE, DEFAULT_TOP_K, DEFAULT_TOP_P, NUM_SEEDS, Message

LIMITS = Limits(max_tokens=300, ttl_s=100.0)
PROFILES = {"greenhouse": Profile(system="You know plants."), "attic": Profile(system="You know dust.")}
USER = Message("user", "hi")
SYSTEM = Message("system", "Be brief.")


def draft(**fields: Any) -> Draft:
    return Draft(**{"client": "c", "id": "1", "messages": (USER,), **fields})


def test_what_is_not_asked_for_is_filled_in() -> None:
    """The box's own choice for every None."""
    request = to_request(draft(), LIMITS, PROFILES)
    sampling = request.sampling
    assert (request.client, request.id, request.messages) == ("c", "1", (USER,))
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (
        DEFAULT_TEMPERATURE,
        DEFAULT_TOP_P,
        DEFAULT_TOP_K,
    )
    assert (request.max_tokens, request.stop, request.ttl_s) == (DEFAULT_MAX_TOKENS, (), 100.0)


def test_what_is_asked_for_is_kept() -> None:
    """Zero is a value, not "as the box likes"."""
    wanted = draft(temperature=0.0, top_p=0.5, top_k=0, seed=0, max_tokens=7, stop=("x",), ttl_s=5.0)
    request = to_request(wanted, LIMITS, PROFILES)
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0.0, 0.5, 0, 0)
    assert (request.max_tokens, request.stop, request.ttl_s) == (7, ("x",), 5.0)


def test_the_finer_sampling_is_passed_on() -> None:
    """And is nothing where nothing was asked for."""
    fields = {"min_p": 0.1, "repeat_penalty": 1.2, "presence_penalty": -1.0, "frequency_penalty": 0.5}
    asked, plain = (to_request(one, LIMITS, PROFILES).sampling for one in (draft(**fields), draft()))
    assert {name: getattr(asked, name) for name in fields} == fields
    assert [getattr(plain, name) for name in fields] == [0.0, 1.0, 0.0, 0.0]
    assert to_request(draft(schema="{}"), LIMITS, PROFILES).schema == "{}"


def test_the_limits_clamp_what_is_asked_for() -> None:
    """A greedy client gets what the box gives, not an error."""
    request = to_request(draft(max_tokens=100_000, ttl_s=1e9), LIMITS, PROFILES)
    assert (request.max_tokens, request.ttl_s) == (300, 100.0)


def test_a_seed_is_drawn_anew_for_each_request() -> None:
    """And is one llama.cpp does not read as "draw one yourself"."""
    seeds = {to_request(draft(), LIMITS, PROFILES).sampling.seed for _ in range(50)}
    assert len(seeds) > 1
    assert all(0 <= seed < NUM_SEEDS for seed in seeds)


@pytest.mark.parametrize(
    ("fields", "system"),
    [({"profile": "greenhouse"}, "You know plants."), ({"system": "Be kind."}, "Be kind.")],
)
def test_a_profile_or_a_system_prompt_stands_in_front(fields: dict[str, str], system: str) -> None:
    """As a system message before everything else."""
    request = to_request(draft(**fields), LIMITS, PROFILES)
    assert request.messages == (Message("system", system), USER)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"messages": ()}, "at least one message"),
        ({"messages": (USER, SYSTEM)}, "not with a system message"),
        ({"messages": (SYSTEM, USER), "profile": "attic"}, "hold a system message already"),
        ({"messages": (SYSTEM, USER), "system": "x"}, "hold a system message already"),
        ({"profile": "attic", "system": "x"}, "only one of them"),
    ],
)
def test_contradictions_are_bad_requests(fields: dict[str, Any], sentence: str) -> None:
    """Nothing is guessed: the client is told what to leave out."""
    with pytest.raises(BadRequest, match=sentence):
        to_request(draft(**fields), LIMITS, PROFILES)


@pytest.mark.parametrize(
    ("asked", "most", "used"), [(None, 0, 0), (9, 0, 0), (9, 5, 5), (3, 5, 3), (-9, 5, -9)]
)
def test_a_priority_is_cut_down_to_what_a_request_may_ask_for(
    asked: int | None, most: int, used: int
) -> None:
    """Anybody may stand back; nobody gets past limits.priority."""
    assert to_request(draft(priority=asked), Limits(priority=most), {}).priority == used


def test_a_session_is_named_as_everything_on_the_wire_is() -> None:
    """The request carries its name to the engine."""
    assert to_request(draft(session="kitchen.1"), LIMITS, {}).session == "kitchen.1"
    for name in ("", "a b", "a/b", "x" * 65, "x\n"):
        with pytest.raises(BadRequest, match="is not allowed; expected 1 to 64 of"):
            to_request(draft(session=name), LIMITS, {})


def test_superseding_needs_a_session() -> None:
    """Without one there is nothing to cancel: the client meant something else."""
    with pytest.raises(BadRequest, match="supersede: is about a session; name one"):
        to_request(draft(supersede=True), LIMITS, {})


@pytest.mark.parametrize(("profiles", "known"), [(PROFILES, "attic, greenhouse"), ({}, "none")])
def test_an_unknown_profile_is_not_found_and_the_known_ones_are_named(
    profiles: dict[str, Profile], known: str
) -> None:
    """The sentence says what could have been asked for."""
    with pytest.raises(NotFound, match=f"'cellar' is not configured on this box; there are: {known}"):
        to_request(draft(profile="cellar"), LIMITS, profiles)


@pytest.mark.parametrize("content", ["", "  \n"])
def test_an_empty_question_is_refused(content: str) -> None:
    """On both fronts: there is nothing to answer."""
    with pytest.raises(BadRequest, match="nothing to answer"):
        to_request(draft(messages=(SYSTEM, Message("user", content))), LIMITS, PROFILES)


def test_a_conversation_of_too_many_messages_is_refused_with_the_bound() -> None:
    """Each is rendered by itself; thousands of empty ones would hold everybody up."""
    messages = tuple(Message("user", "x") for _ in range(MAX_MESSAGES + 1))
    with pytest.raises(BadRequest, match=f"at most {MAX_MESSAGES}"):
        to_request(draft(messages=messages), Limits(), {})
