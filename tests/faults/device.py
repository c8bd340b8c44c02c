"""A simulated device: asks, keeps all it hears, and asks again as a real one would.

An eager device sends its request again after a silence. A patient one, once it was told `accepted`, only
does so when the broker has lost its memory: what the box has accepted it has to bring by itself.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from tests.faults.history import NOT_FOUND, Ask, Heard, Story, decode, is_refusal
from tests.faults.receiver import Receiver
from tests.faults.session import Session
from tests.faults.wire import Message

TICK_S = 0.1
REFUSED_PAUSE_S = 0.5
GET_PAUSE_S = 1.0


@dataclass(slots=True)
class Open:
    """A request on its way. `resend_at` is when the device asks again, unless it hears something before."""

    story: Story
    receiver: Receiver = field(default_factory=Receiver)
    resend_at: float = 0.0
    cancel_at: float | None = None
    get_at: float = 0.0
    # How often the broker had lost its memory when the request was accepted.
    num_forgotten: int = 0


class Device:
    """`num_forgotten` tells how often the broker has lost its memory; `max_open` requests run at once."""

    def __init__(
        self,
        name: str,
        base: str,
        port: int,
        num_forgotten: Callable[[], int],
        *,
        is_patient: bool,
        max_open: int = 4,
        resend_s: float = 4.0,
    ) -> None:
        self.name = name
        self.stories: dict[str, Story] = {}
        self.num_resends = 0
        self.num_deltas = 0
        self._base = base
        self._num_forgotten = num_forgotten
        self._is_patient = is_patient
        self._max_open = max_open
        self._resend_s = resend_s
        self._waiting: deque[Ask] = deque()
        self._open: dict[str, Open] = {}
        self._misorders: deque[bool] = deque()
        filters = {f"{base}/response/{name}/#": 1}
        self.session = Session(port, f"device-{name}", filters, self._take, self._acked)

    @property
    def is_idle(self) -> bool:
        """Everything that was asked has its result."""
        return not self._waiting and not self._open

    @property
    def num_open(self) -> int:
        """Asked, or about to be, and without a result."""
        return len(self._waiting) + len(self._open)

    def ask(self, asks: Sequence[Ask]) -> None:
        """Ask these too, as soon as there is room."""
        self._waiting.extend(asks)

    async def run(self) -> None:
        """Live until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.session.run())
            group.create_task(self._tick())

    # ---- what a fault makes it do ------------------------------------------------------------

    def repeat(self, num_ended: int) -> None:
        """Send what is open again, twice on the wire with DUP, and the last that have ended."""
        for one in self._open.values():
            self.session.publish_twice(self._topic("request"), one.story.ask.payload)
            self._note_resend(one.story)
        ended = [story for story in self.stories.values() if story.ask.id not in self._open]
        for story in ended[-num_ended:] if num_ended else []:
            self.send_again(story)

    def misorder(self, *, cancels: bool) -> None:
        """Of the next ask the cancel, or else a `get`, goes before the request."""
        self._misorders.append(cancels)

    def send_again(self, story: Story) -> None:
        """The same request, whatever has become of it."""
        self.session.publish(self._topic("request"), story.ask.payload)
        self._note_resend(story)

    def get(self, story: Story) -> None:
        """Ask for the state or result again."""
        story.got_at.append(time.monotonic())
        self.session.publish(self._topic("get"), msgspec.json.encode({"id": story.ask.id}))

    # ---- asking ------------------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            while self._waiting and len(self._open) < self._max_open:
                self._begin(self._waiting.popleft())
            now = time.monotonic()
            for one in list(self._open.values()):
                self._look_after(one, now)
            await asyncio.sleep(TICK_S)

    def _begin(self, ask: Ask) -> None:
        story = self.stories[ask.id] = Story(ask)
        one = self._open[ask.id] = Open(story)
        misorder = self._misorders.popleft() if self._misorders else None
        if ask.gets_first or misorder is False:
            self.get(story)
        if ask.cancel_after_s == 0 or (misorder and ask.question.session is None):
            self._cancel(story)
        elif ask.cancel_after_s is not None:
            one.cancel_at = time.monotonic() + ask.cancel_after_s
        self._send(one)

    def _look_after(self, one: Open, now: float) -> None:
        if one.cancel_at is not None and now >= one.cancel_at:
            one.cancel_at = None
            self._cancel(one.story)
        if one.receiver.has_gap and now >= one.get_at:
            one.get_at = now + GET_PAUSE_S
            self.get(one.story)
        if now >= one.resend_at and not self._trusts(one):
            self.num_resends += 1
            self._send(one)

    def _trusts(self, one: Open) -> bool:
        """The box has said that it will bring the answer, and nobody between has forgotten since."""
        is_accepted = one.story.accepted is not None
        return self._is_patient and is_accepted and self._num_forgotten() == one.num_forgotten

    def _send(self, one: Open) -> None:
        one.story.sent_at.append(time.monotonic())
        one.resend_at = time.monotonic() + self._resend_s
        self.session.publish(self._topic("request"), one.story.ask.payload, one.story.ask.id)

    def _cancel(self, story: Story) -> None:
        story.cancelled_at = time.monotonic()
        self.session.publish(self._topic("cancel"), msgspec.json.encode({"id": story.ask.id}))

    def _note_resend(self, story: Story) -> None:
        self.num_resends += 1
        story.sent_at.append(time.monotonic())

    def _topic(self, channel: str) -> str:
        return f"{self._base}/{channel}/{self.name}"

    # ---- hearing -----------------------------------------------------------------------------

    def _acked(self, ask_id: str) -> None:
        if story := self.stories.get(ask_id):
            story.acked_at = story.acked_at or time.monotonic()

    def _take(self, message: Message) -> None:
        story = self.stories.get(message.topic.rpartition("/")[2])
        if story is None:
            return
        frame, now = decode(message.payload), time.monotonic()
        self.num_deltas += frame.type == "delta"
        story.heard.append(Heard(now, message.qos, message.is_duplicate, message.payload, frame))
        if one := self._open.get(story.ask.id):
            self._follow(one, now)

    def _follow(self, one: Open, now: float) -> None:
        """What the newest frame means for asking again."""
        frame = one.story.heard[-1].frame
        one.resend_at = now + self._resend_s
        if frame.type == "accepted":
            one.num_forgotten = self._num_forgotten()
        if frame.code == NOT_FOUND:
            return
        one.receiver.take(frame)
        if is_refusal(frame) and one.story.accepted is None:
            pause_ms = frame.retry_after_ms or 0
            one.resend_at = now + min(max(pause_ms / 1000, REFUSED_PAUSE_S), self._resend_s)
        elif frame.type == "error" or (frame.type == "done" and one.receiver.text is not None):
            del self._open[one.story.ask.id]
