"""What a sequence that has filled its context can go on without.

Attention sink and recent window (Xiao et al., 2023): the beginning stays, which all later tokens
lean on, and so does what was said last. The system prompt and the last turn of the prompt are never
cut. First goes the conversation between them; then the older half of the answer itself.
"""

from agent.engine.sequence import Sequence

# An answer's beginning is not given up before it has so many tokens: cutting costs a pause.
MIN_ANSWER = 64


def next_cut(sequence: Sequence) -> tuple[int, int] | None:
    """The tokens (start, end) to go next; None when nothing may be cut."""
    start, end = sequence.history
    if end > start:
        return start, end
    num_answer = len(sequence.tokens) - sequence.num_prompt
    if num_answer >= MIN_ANSWER:
        return sequence.num_prompt, sequence.num_prompt + num_answer // 2
    return None
