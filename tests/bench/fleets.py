"""16 clients at once on a fresh process of either side, so that no run finds what an earlier one left."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tests.bench.bench import Bench
from tests.bench.http_client import Question
from tests.bench.load import Served, serve, warm_up
from tests.bench.mqtt_load import serve_mqtt
from tests.bench.questions import MOODS, NUM_CLIENTS, NUM_TOKENS
from tests.bench.sides import Side, llama_server, tampu
from tests.bench.streams import Fleet, Stream
from tests.bench.variants import Variant

# For 16 clients at once.
TAMPU_16 = {"engine": {"slots": 16, "n_ctx": 8192}}

NUM_ANSWERS = NUM_CLIENTS * len(MOODS)

Conversations = Sequence[Sequence[Question]]


def tampu_fleet(bench: Bench, conversations: Conversations, tree: Mapping[str, Any] = TAMPU_16) -> Served:
    """Raises ValueError when an answer failed."""
    with tampu(bench.setting, tree) as side:
        return _complete(side, conversations)


def mqtt_fleet(bench: Bench, conversations: Conversations) -> Fleet:
    """The same over the broker, as devices ask. Raises ValueError when an answer failed."""
    with tampu(bench.setting, TAMPU_16) as side:
        warm_up(side)
        fleet = serve_mqtt(side.broker_port, conversations)
        fleet.check_complete(side.name, NUM_TOKENS)
        return fleet


def server_fleet(bench: Bench, variant: Variant, conversations: Conversations) -> Served:
    """Raises ValueError when an answer failed."""
    with llama_server(bench.setting, variant) as side:
        return _complete(side, conversations)


def _complete(side: Side, conversations: Conversations) -> Served:
    warm_up(side)
    served = serve(side, conversations)
    served.fleet.check_complete(side.name, NUM_TOKENS)
    return served


def first_round(served: Served) -> list[Stream]:
    """The answers to each client's first question."""
    return list(served.fleet.streams[:: len(MOODS)])


def ttft_p50_ms(streams: Sequence[Stream]) -> float:
    return statistics.median(stream.ttft_s for stream in streams) * 1e3


def ttft_max_ms(streams: Sequence[Stream]) -> float:
    return max(stream.ttft_s for stream in streams) * 1e3


def mib(num_bytes: int | None) -> float:
    """MiB; 0 where the system does not tell."""
    return (num_bytes or 0) / (1 << 20)
