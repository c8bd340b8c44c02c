"""What this daemon has done since it was started: how its requests ended, tokens, and seconds."""

from dataclasses import dataclass, field

from agent.answer import Answer
from agent.errors import BY_CODE, Internal, RequestError
from agent.request import Failed, Finished, FinishReason


def _none(names: list[str]) -> dict[str, int]:
    return dict.fromkeys(names, 0)


@dataclass(slots=True)
class Counts:
    """Bumped on the loop by whoever ends a request. `done` counts by finish reason, `errors` by wire code;
    every name there is stands in them from the start.

    Tokens are the model's; `cached` of the prompt tokens were not computed again.
    """

    done: dict[str, int] = field(default_factory=lambda: _none([reason.value for reason in FinishReason]))
    errors: dict[str, int] = field(default_factory=lambda: _none([*BY_CODE]))
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0

    def ended(self, answer: Answer) -> None:
        """A request that was accepted has its result; one that has none yet is not counted."""
        match answer.terminal:
            case Finished(finish_reason, usage, timings):
                self.done[finish_reason.value] += 1
                self.prompt_tokens += usage.prompt
                self.cached_tokens += usage.cached
                self.completion_tokens += usage.completion
                self.queue_s += timings.queue_s
                self.prefill_s += timings.prefill_s
                self.decode_s += timings.decode_s
            case Failed(code):
                self._failed(code)

    def refused(self, error: RequestError) -> None:
        """A request that was not accepted."""
        self._failed(error.code)

    def _failed(self, code: str) -> None:
        # As errors.from_code has it: what nobody knows is internal. So the names stay bounded.
        self.errors[code if code in self.errors else Internal.code] += 1
