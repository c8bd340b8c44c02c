"""What a single client may, where that is less than everybody may: the `clients:` table over the limits.

A client's rules are its own entry, else that of `*`, else none; entries are not merged. They are about
MQTT clients. Those of the local socket are called `socket:...`, which no MQTT client can be: whoever may
open its file is trusted.
"""

import math
from typing import TypeVar

from msgspec.structs import replace

from agent.config import ClientRules, Config, Limits

N = TypeVar("N", int, float)

LOCAL = "socket:"
EVERYBODY = "*"
NO_RULES = ClientRules()


class Rules:
    """The table of one configuration."""

    def __init__(self, config: Config) -> None:
        self._clients = config.clients
        self._limits = config.limits

    def of(self, client: str) -> ClientRules:
        """What this client may; without an entry nothing is taken from it."""
        if is_local(client):
            return NO_RULES
        return self._clients.get(client) or self._clients.get(EVERYBODY, NO_RULES)

    def limits(self, client: str) -> Limits:
        """The box's limits, cut down for this client."""
        return cut_down(self._limits, self.of(client))


def is_local(client: str) -> bool:
    """True for a client of the local socket."""
    return client.startswith(LOCAL)


def cut_down(limits: Limits, rules: ClientRules) -> Limits:
    """The limits under these rules, never above what they are without; doing it twice changes nothing.

    A rate of the client's own also bounds its burst: to what it may ask in one minute.
    """
    if rules is NO_RULES:
        return limits
    per_minute = _lower(limits.requests_per_minute, rules.requests_per_minute)
    burst = limits.burst if rules.requests_per_minute is None else min(limits.burst, math.ceil(per_minute))
    return replace(
        limits,
        per_client=_lower(limits.per_client, rules.per_client),
        sessions_per_client=_lower(limits.sessions_per_client, rules.sessions),
        max_tokens=_lower(limits.max_tokens, rules.max_tokens),
        priority=_lower(limits.priority, rules.priority),
        requests_per_minute=per_minute,
        burst=burst,
    )


def _lower(limit: N, own: N | None) -> N:
    return limit if own is None else min(limit, own)
