"""What every test may use."""

import signal

import pytest
from hypothesis import settings

# How long an example takes says something about the machine only; every test has a bound of its own.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# A shell's background jobs ignore SIGINT, and so would the programs the tests send it to.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def anyio_backend() -> str:
    """Tests marked `anyio` run on asyncio, as the daemon does."""
    return "asyncio"
