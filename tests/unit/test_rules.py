"""The clients table: what one client may is never more than everybody may."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import ClientRules, Config, Limits
from agent.rules import NO_RULES, Rules, cut_down

OWN, OTHERS = ClientRules(max_tokens=64), ClientRules(priority=-1)
CUT = ("per_client", "sessions_per_client", "max_tokens", "priority", "requests_per_minute", "burst")


def rules(**clients: ClientRules) -> Rules:
    table = {name.replace("everybody", "*"): entry for name, entry in clients.items()}
    return Rules(Config(clients=table))


def test_a_client_s_own_entry_comes_before_that_of_everybody() -> None:
    """They are not merged: an entry says all there is to say."""
    table = rules(me=OWN, everybody=OTHERS)
    assert table.of("me") is OWN
    assert table.of("you") is OTHERS
    assert rules(me=OWN).of("you") is NO_RULES


def test_an_entry_that_says_nothing_frees_its_client_from_those_of_everybody() -> None:
    """An empty entry is an entry."""
    assert rules(me=ClientRules(), everybody=OTHERS).of("me") == NO_RULES


def test_the_local_socket_is_not_in_the_table() -> None:
    """Whoever may open its file is trusted, also where everybody has rules."""
    assert rules(everybody=OTHERS).of("socket:kitchen") is NO_RULES
    assert rules(everybody=OTHERS).limits("socket:kitchen") == Limits()


@pytest.mark.parametrize(
    ("entry", "field", "value"),
    [
        (ClientRules(max_tokens=64), "max_tokens", 64),
        (ClientRules(max_tokens=1 << 20), "max_tokens", 1024),
        (ClientRules(priority=-3), "priority", -3),
        (ClientRules(priority=9), "priority", 0),
        (ClientRules(sessions=0), "sessions_per_client", 0),
        (ClientRules(sessions=4096), "sessions_per_client", 8),
        (ClientRules(per_client=2), "per_client", 2),
        (ClientRules(requests_per_minute=6), "requests_per_minute", 6),
        (ClientRules(requests_per_minute=6), "burst", 6),
        (ClientRules(requests_per_minute=0.5), "burst", 1),
        (ClientRules(requests_per_minute=1e6), "burst", 60),
    ],
)
def test_limits_are_cut_down_and_never_up(entry: ClientRules, field: str, value: float) -> None:
    """A rate of its own bounds the burst to a minute's worth; half a request is still one."""
    assert getattr(rules(me=entry).limits("me"), field) == value


ENTRIES = st.builds(
    ClientRules,
    max_tokens=st.none() | st.integers(1, 1 << 20),
    priority=st.none() | st.integers(-9, 9),
    sessions=st.none() | st.integers(0, 4096),
    per_client=st.none() | st.integers(0, 4096),
    requests_per_minute=st.none() | st.floats(0.001, 1e6),
)


@given(ENTRIES)
def test_no_entry_gives_more_than_the_limits(entry: ClientRules) -> None:
    """Whatever it says, and cutting down twice is cutting down once."""
    cut = cut_down(Limits(), entry)
    assert all(getattr(cut, field) <= getattr(Limits(), field) for field in CUT)
    assert cut_down(cut, entry) == cut
    assert cut.burst >= 1
