"""What one `llama_decode` computes: one chunk of each sequence taking part, flattened to rows."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from agent.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """`count` tokens of `sequence`, from the first that is not computed yet.

    `output_row` is the batch row whose logits give the next token, or None inside a prompt.
    """

    sequence: Sequence
    count: int
    output_row: int | None


@dataclass(slots=True)
class Batch:
    """Rows in parallel lists, as llama.cpp wants them: row i is `tokens[i]` of slot `slots[i]`."""

    chunks: list[Chunk] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    outputs: list[bool] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.tokens)

    def add(self, sequence: Sequence, count: int) -> None:
        """Append the next `count` tokens; the row of the sequence's last token asks for logits."""
        start, end = sequence.num_computed, sequence.num_computed + count
        completes = end == len(sequence.tokens)
        self.tokens += sequence.tokens[start:end]
        self.positions += range(start, end)
        self.slots += [sequence.slot] * count
        self.outputs += [False] * (count - 1) + [completes]
        self.chunks.append(Chunk(sequence, count, len(self.tokens) - 1 if completes else None))

    @property
    def num_prefill(self) -> int:
        """Rows that are not a decode step of a running stream."""
        return len(self) - sum(chunk.count == 1 and chunk.output_row is not None for chunk in self.chunks)

    def alone(self) -> Iterator["Batch"]:
        """The same work, one sequence at a time: how a failed decode finds its culprit."""
        for chunk in self.chunks:
            batch = Batch()
            batch.add(chunk.sequence, chunk.count)
            yield batch
