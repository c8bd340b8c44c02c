"""Who is next: requests that wait for a slot, in turn over clients and not over requests.

Deficit round robin (Shreedhar and Varghese, 1995) with tokens for bytes: every round gives each
waiting client QUANTUM tokens, a request starts when its client can pay for it, and what it did not
use comes back. A client that asks for novels waits longer than one that asks for a word, however
many of them it queues. Higher priorities go first; each has rounds of its own.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from agent.engine.sequence import Sequence

# Small, for a newcomer waits for what others have saved up; rounds cost one division, however many.
QUANTUM = 16


@dataclass(slots=True)
class _Line:
    """One client's waiting requests of one priority, and the tokens it has saved up for the first."""

    queue: deque[Sequence] = field(default_factory=deque)
    deficit: int = 0

    @property
    def num_rounds(self) -> int:
        """Rounds until the first request can be paid."""
        return max(0, -(-(self.queue[0].cost - self.deficit) // QUANTUM))


class Waiting:
    """Lines by priority and client; the order of a level's lines is the order of its turns."""

    def __init__(self) -> None:
        self._levels: dict[int, dict[str, _Line]] = {}
        # Another number whenever somebody else may be due.
        self.version = 0

    def __bool__(self) -> bool:
        return bool(self._levels)

    def __len__(self) -> int:
        return sum(len(line.queue) for lines in self._levels.values() for line in lines.values())

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind its client's others."""
        self._line(sequence).queue.append(sequence)
        self.version += 1

    def put_back(self, sequence: Sequence) -> None:
        """Queue a sequence that was running before its client's others, and its client before the rest."""
        lines = self._levels.setdefault(sequence.priority, {})
        line = lines.pop(sequence.client, None) or _Line()
        line.queue.appendleft(sequence)
        self.version += 1
        self._levels[sequence.priority] = {sequence.client: line, **lines}

    def remove(self, sequence: Sequence) -> bool:
        """Take a sequence out; False when it does not wait here."""
        line = self._levels.get(sequence.priority, {}).get(sequence.client)
        if line is None or sequence not in line.queue:
            return False
        line.queue.remove(sequence)
        self.version += 1
        self._forget_if_empty(sequence)
        return True

    def heads(self) -> Iterator[Sequence]:
        """The first of every line, in the order they are due."""
        for priority in sorted(self._levels, reverse=True):
            lines = self._levels[priority].values()
            yield from (line.queue[0] for line in sorted(lines, key=lambda line: line.num_rounds))

    def take(self, head: Sequence) -> None:
        """Start this one, which `heads` gave: the rounds it waited for pass for everybody."""
        lines = self._levels[head.priority]
        line = lines.pop(head.client)
        num_rounds = line.num_rounds
        for other in lines.values():
            other.deficit += num_rounds * QUANTUM
        line.deficit += num_rounds * QUANTUM - head.cost
        head.paid += head.cost
        line.queue.popleft()
        if line.queue:
            lines[head.client] = line
        elif not lines:
            del self._levels[head.priority]

    def refund(self, sequence: Sequence) -> None:
        """The sequence has ended: its client may have for the next one what this one did not use."""
        line = self._levels.get(sequence.priority, {}).get(sequence.client)
        if line is not None:
            line.deficit += max(0, sequence.paid - sequence.num_spent)

    def _line(self, sequence: Sequence) -> _Line:
        return self._levels.setdefault(sequence.priority, {}).setdefault(sequence.client, _Line())

    def _forget_if_empty(self, sequence: Sequence) -> None:
        lines = self._levels[sequence.priority]
        if not lines[sequence.client].queue:
            del lines[sequence.client]
        if not lines:
            del self._levels[sequence.priority]
