"""What every test may use."""

import signal

import pytest

# A shell's background jobs ignore SIGINT, and so would the programs the tests send it to.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def anyio_backend() -> str:
    """Tests marked `anyio` run on asyncio, as the daemon does."""
    return "asyncio"
