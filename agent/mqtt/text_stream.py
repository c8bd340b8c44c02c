"""An answer as bare text, for readers without JSON: a display, a shell script, mosquitto_rr.

Text on the reply topic, an empty payload on `<reply>/done` at the end, `code: message` on
`<reply>/error` where there is no answer; nothing else. There are no offsets, so what was published
at QoS 0 just before the connection broke may be missing (ask for `reply_qos` 1 to have it all), and
after a restart of the daemon the text begins again.
"""

from agent.answer import Answer
from agent.errors import RequestError
from agent.journal.journal import Final
from agent.mqtt.route import Route
from agent.mqtt.stream import Stream
from agent.mqtt.topics import SUFFIXES
from agent.request import Finished, Request

DONE, ERROR = SUFFIXES


class TextStream(Stream):
    """See stream.Stream."""

    @property
    def room(self) -> int:
        return super().room - len(ERROR)

    def reroute(self, route: Route) -> None:
        """Another topic has nothing yet, and gets it all; on the same one nothing can be said again."""
        if route.topic != self.route.topic:
            self.num_chars = 0
        super().reroute(route)

    def accept(self, request: Request, queue_pos: int) -> None:
        """Bare text has no word for it."""

    def progress(self, answer: Answer, queue_pos: int) -> None:
        """Nor for this."""

    def say(self, text: str) -> int:
        payload = _beginning(text, self.room)
        self.publish_piece(payload)
        return len(payload.decode())

    async def catch_up(self, text: str) -> None:
        """Nothing said before can be said again without doubling it: go on from there."""

    def done(self, finished: Finished, text: str) -> tuple[Final, ...]:
        return self._finals(text[self.num_chars :])

    def kept(self, finals: tuple[Final, ...], answer: Answer) -> tuple[Final, ...]:
        """The whole text: whoever asks again has not got what was said along the way."""
        return self._finals(answer.text) if finals[-1].suffix == DONE else finals

    def error(self, error: RequestError) -> tuple[Final, ...]:
        return (Final(_beginning(f"{error.code}: {error.message}", self.room), ERROR),)

    def _finals(self, text: str) -> tuple[Final, ...]:
        parts = []
        while text:
            part = _beginning(text, self.room)
            parts.append(Final(part))
            text = text[len(part.decode()) :]
        return (*parts, Final(b"", DONE))


def _beginning(text: str, max_bytes: int) -> bytes:
    """As many whole characters as fit; at least one."""
    payload = text[:1].encode()
    cut = text.encode()[: max(max_bytes, len(payload))]
    return cut.decode(errors="ignore").encode() or payload
