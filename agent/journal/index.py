"""The journal's entries in memory, and which of them give way when there are too many."""

from collections.abc import Collection, Iterator

from agent.journal.entry import Entry, EntryState, Final, size_of


class Index:
    """Entries by (client, id), and by state in the order they came to it.

    At most `max_rows` entries and `max_bytes` of intents and terminal frames, but for live ones.
    """

    def __init__(self, max_rows: int, max_bytes: int) -> None:
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._by_key: dict[tuple[str, str], Entry] = {}
        self._by_state: dict[EntryState, dict[int, Entry]] = {state: {} for state in EntryState}
        # The same once more, those with a text only: the search for the oldest must not pass all the others.
        self._texts: dict[EntryState, dict[int, Entry]] = {state: {} for state in EntryState}
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._by_key.values()))

    def get(self, key: tuple[str, str]) -> Entry | None:
        """The entry of this client and id, if it is known."""
        return self._by_key.get(key)

    @property
    def live(self) -> Collection[Entry]:
        """Requests that have not ended."""
        return self._by_state[EntryState.LIVE].values()

    def add(self, entry: Entry) -> None:
        """A new entry. Its key must be free."""
        assert entry.key not in self._by_key, entry.key
        self._by_key[entry.key] = entry
        self._put_in(entry)

    def remove(self, entry: Entry) -> None:
        """Forget an entry."""
        del self._by_key[entry.key]
        self._take_out(entry)

    def change(
        self,
        entry: Entry,
        *,
        state: EntryState | None = None,
        intent_bytes: int | None = None,
        frames: tuple[Final, ...] | None = None,
    ) -> None:
        """Another state, other texts; what is None stays."""
        self._take_out(entry)
        if state is not None:
            entry.state = state
        if intent_bytes is not None:
            entry.num_intent_bytes = intent_bytes
        if frames is not None:
            entry.frames, entry.num_frame_bytes = frames, size_of(frames)
        self._put_in(entry)

    def lose_text(self, entry: Entry) -> None:
        """The terminal frames go and the key stays, at its place among its like."""
        self._texts[entry.state].pop(entry.seq, None)
        self.num_bytes -= entry.num_bytes
        entry.frames, entry.intent = None, b""
        entry.num_frame_bytes = entry.num_intent_bytes = 0

    def surplus(self, horizon: float, num_new: int = 0) -> Iterator[Entry]:
        """Entries to be removed, one after another, to have room for so many new ones: delivered ones
        untouched since `horizon`; of too many the oldest delivered, then the oldest not delivered."""
        delivered = self._by_state[EntryState.DELIVERED]
        while delivered and (entry := next(iter(delivered.values()))).touched_at < horizon:
            yield entry
        for state in (EntryState.DELIVERED, EntryState.ENDED):
            while self._by_state[state] and len(self) + num_new > self._max_rows:
                yield next(iter(self._by_state[state].values()))

    def too_large(self) -> Iterator[Entry]:
        """Entries to lose their text, one after another, the oldest delivered first."""
        for state in (EntryState.DELIVERED, EntryState.ENDED):
            while self._texts[state] and self.num_bytes > self._max_bytes:
                yield next(iter(self._texts[state].values()))

    def _put_in(self, entry: Entry) -> None:
        self._by_state[entry.state][entry.seq] = entry
        if entry.has_text:
            self._texts[entry.state][entry.seq] = entry
        self.num_bytes += entry.num_bytes

    def _take_out(self, entry: Entry) -> None:
        del self._by_state[entry.state][entry.seq]
        self._texts[entry.state].pop(entry.seq, None)
        self.num_bytes -= entry.num_bytes
