"""From what a client wrote to a request within the box's limits."""

from typing import Any

import pytest

from agent.config import ClientRules, Limits, Profile
from agent.draft import DEFAULT_MAX_TOKENS, MAX_AGE_S, MAX_MESSAGES, Draft, left_of, to_request
from agent.errors import BadRequest, Expired, Forbidden, NotFound
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


# ---- the rules of one client -------------------------------------------------------------------------

FIXED = ClientRules(profiles=("greenhouse",), own_system=False)
CHOICE = ClientRules(profiles=("greenhouse", "attic"), own_system=False)


@pytest.mark.parametrize(
    ("rules", "fields", "sentence"),
    [
        (FIXED, {"profile": "attic"}, "profile: 'attic' is not for this client; it may name: greenhouse"),
        (FIXED, {"profile": "cellar"}, "profile: 'cellar' is not for this client; it may name: greenhouse"),
        (FIXED, {"profile": ""}, "profile: '' is not for this client"),
        (FIXED, {"system": "x"}, "system: this client may not bring its own; it may name: greenhouse"),
        (FIXED, {"system": ""}, "system: this client may not bring its own"),
        (FIXED, {"messages": (SYSTEM, USER)}, "messages: this client may not bring a system message"),
        (FIXED, {"messages": (USER, SYSTEM, USER)}, "messages: this client may not bring a system message"),
        (CHOICE, {}, "profile: this client must name one of: greenhouse, attic"),
        (ClientRules(own_system=False), {"system": "x"}, "its own; name a profile instead"),
        (ClientRules(profiles=(), own_system=False), {"system": "x"}, "it may name no profile either"),
        (ClientRules(profiles=()), {"profile": "attic"}, "it may name no profile either"),
        (ClientRules(sessions=0), {"session": "kitchen"}, "session: this client may have none; leave it out"),
    ],
)
def test_what_a_client_may_not_is_forbidden_and_what_it_may_is_said(
    rules: ClientRules, fields: dict[str, Any], sentence: str
) -> None:
    """With the status 403 and not to be tried again."""
    with pytest.raises(Forbidden, match=sentence) as refusal:
        to_request(draft(**fields), LIMITS, PROFILES, rules)
    assert not refusal.value.retryable


@pytest.mark.parametrize(
    ("rules", "fields", "system"),
    [
        (FIXED, {}, "You know plants."),
        (FIXED, {"profile": "greenhouse"}, "You know plants."),
        (FIXED, {"session": "kitchen"}, "You know plants."),
        (CHOICE, {"profile": "attic"}, "You know dust."),
        (ClientRules(profiles=("attic",)), {}, None),
        (ClientRules(profiles=("attic",)), {"system": "x"}, "x"),
        (ClientRules(own_system=False), {}, None),
        (ClientRules(own_system=False), {"profile": "attic"}, "You know dust."),
        (ClientRules(profiles=(), own_system=False), {}, None),
    ],
)
def test_a_client_without_a_system_prompt_of_its_own_has_its_only_profile(
    rules: ClientRules, fields: dict[str, Any], system: str | None
) -> None:
    """Also where it names none: the table says what stands in front of all it asks."""
    front = () if system is None else (Message("system", system),)
    assert to_request(draft(**fields), LIMITS, PROFILES, rules).messages == (*front, USER)


def test_the_rules_cut_tokens_and_priority_down_and_never_up() -> None:
    """As the limits do: the client gets what it may have, not an error."""
    small = ClientRules(max_tokens=16, priority=-2)
    request = to_request(draft(priority=9), LIMITS, PROFILES, small)
    assert (request.max_tokens, request.priority) == (16, -2)
    large = ClientRules(max_tokens=1 << 20, priority=9)
    request = to_request(draft(priority=9, max_tokens=5000), LIMITS, PROFILES, large)
    assert (request.max_tokens, request.priority) == (300, 0)


# ---- when it was sent --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("age_s", "left_s"), [(0, 60), (20, 40), (59.5, 0.5), (-5, 60), (MAX_AGE_S, 60), (1e9, 60)]
)
def test_the_time_to_live_counts_from_when_it_was_sent(age_s: float, left_s: float) -> None:
    """Not where one of the clocks must be wrong: the future, or more than a day ago."""
    assert left_of(60, 2e9 - age_s, 2e9) == left_s


def test_a_request_whose_time_went_by_on_its_way_is_expired() -> None:
    """It is not computed for nobody."""
    for age_s in (60, 61, MAX_AGE_S - 1):
        with pytest.raises(Expired, match="s old when it came here; its ttl_s is 60"):
            left_of(60, 2e9 - age_s, 2e9)
