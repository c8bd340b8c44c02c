"""What a connection has asked to hear, and what of it the broker refuses."""

import asyncio
import logging
from collections.abc import Callable

from agent.findings import Finding, Severity

log = logging.getLogger(__name__)

# What was refused is asked for again: the broker's ACL may have been mended.
ASK_AGAIN_S = 60.0


class Subscriptions:
    """`ask` sends a SUBSCRIBE for some filters and gives its message id, or None without a connection."""

    def __init__(self, ask: Callable[[list[str]], int | None]) -> None:
        self._ask = ask
        self._asked: dict[int, list[str]] = {}
        self._refused: dict[str, str] = {}
        self._again: asyncio.TimerHandle | None = None

    def subscribe(self, filters: list[str]) -> None:
        """Ask to hear them."""
        mid = self._ask(filters) if filters else None
        if mid is not None:
            self._asked[mid] = filters

    def forget(self, filters: list[str]) -> None:
        """They are not wanted any more: those that were refused are not asked for again."""
        for name in filters:
            self._refused.pop(name, None)
        self._asked = {
            mid: [name if name not in filters else "" for name in names] for mid, names in self._asked.items()
        }

    def take(self, mid: int, refusals: list[str]) -> None:
        """The SUBACK: for each filter the reason why not, or nothing."""
        for name, reason in zip(self._asked.pop(mid, []), refusals, strict=False):
            if not reason:
                self._refused.pop(name, None)
            elif name and name not in self._refused:
                self._refused[name] = reason
                log.error(
                    "the broker refuses our subscription to %s (%s); allow this user to read it", name, reason
                )
        if self._refused and self._again is None:
            self._again = asyncio.get_running_loop().call_later(ASK_AGAIN_S, self._ask_again)

    def findings(self) -> tuple[Finding, ...]:
        """One, while anything is refused."""
        if not self._refused:
            return ()
        name, reason = next(iter(self._refused.items()))
        what = f"The broker refuses {len(self._refused)} of our subscriptions, {name} among them ({reason})."
        remedy = "Allow this box's user to read it in the broker's ACL."
        return (Finding(Severity.ERROR, "broker_deaf", what, remedy),)

    def end(self) -> None:
        """The connection is over."""
        if self._again is not None:
            self._again.cancel()
            self._again = None

    def _ask_again(self) -> None:
        self._again = None
        self.subscribe(list(self._refused))
