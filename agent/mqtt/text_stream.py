"""An answer as bare text, for readers without JSON: a display, a shell script, mosquitto_rr.

Text on the reply topic, an empty payload on `<reply>/done` at the end, `code: message` on
`<reply>/error` where there is no answer; nothing else. There are no offsets, so what was published
at QoS 0 just before the connection broke may be missing: ask for `reply_qos` 1 to have it all.
"""

from agent.answer import Answer
from agent.errors import RequestError
from agent.journal import Final
from agent.mqtt.stream import Stream
from agent.request import Finished, Request

# No character has more than four bytes in UTF-8.
BYTES_PER_CHAR = 4


class TextStream(Stream):
    """See stream.Stream."""

    def accept(self, request: Request, queue_pos: int) -> None:
        """Bare text has no word for it."""

    def say(self, text: str) -> None:
        self.publish_piece(text.encode())

    async def catch_up(self, text: str, max_bytes: int) -> None:
        """Nothing said before can be said again without doubling it: go on from there."""

    def done(self, finished: Finished, text: str, max_bytes: int) -> tuple[Final, ...]:
        size = max(1, max_bytes // BYTES_PER_CHAR)
        rest = range(self.num_chars, len(text), size)
        return (*(Final(text[start : start + size].encode()) for start in rest), Final(b"", "/done"))

    def repeatable(self, finals: tuple[Final, ...], answer: Answer, max_bytes: int) -> tuple[Final, ...]:
        """The whole text: whoever asks again has not got what was said along the way."""
        self.num_chars = 0
        return self.terminal_frames(answer, max_bytes)

    def error(self, error: RequestError, max_bytes: int) -> tuple[Final, ...]:
        text = f"{error.code}: {error.message}"[: max_bytes // BYTES_PER_CHAR]
        return (Final(text.encode(), "/error"),)
