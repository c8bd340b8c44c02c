"""Who asks over the socket: two users are never one client."""

import pytest

from agent.api.front import NO_USER, _client
from agent.config import NAME

USERS = [
    "alice",
    "alice@example.com",
    "bob@example.com",
    "auth0|1",
    "user:42",
    "ü",
    "x" * 65,
    "x" * 66,
    NO_USER,
]


def test_every_user_is_a_client_of_its_own() -> None:
    """Their conversations and what is resident of them are their own."""
    assert len({_client(user) for user in USERS}) == len(USERS)
    assert _client(None) not in {_client(user) for user in USERS}


@pytest.mark.parametrize("user", USERS)
def test_no_user_is_a_device(user: str) -> None:
    """A colon is in no name on the wire."""
    assert ":" in _client(user)
    assert ":" not in NAME
