"""Looks at the box's memory every second, and says when it becomes short or is so no more."""

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

from agent.hardware import pressure
from agent.hardware.memory import ROOT

log = logging.getLogger(__name__)

EVERY_S = 1.0


class MemoryWatch:
    """`on_change` gets the new level (hardware/pressure.py) and one sentence, on the loop."""

    def __init__(
        self, on_change: Callable[[int, str], None], root: Path = ROOT, every_s: float = EVERY_S
    ) -> None:
        self._on_change = on_change
        self._root = root
        self._every_s = every_s
        self._gauge = pressure.Gauge()
        # The model that is loaded does not stay in memory.
        self.is_cold = False

    async def run(self) -> None:
        """Look until cancelled. A box that tells nothing is not short of memory."""
        while True:
            self._look()
            await asyncio.sleep(self._every_s)

    def _look(self) -> None:
        before = self._gauge.level
        try:
            reading = pressure.read(self._root)
        except OSError as error:
            log.debug("memory cannot be read: %s", error)
            return
        now = self._gauge.feed(pressure.level(reading, is_cold=self.is_cold), time.monotonic())
        if now != before:
            sentence = pressure.describe(reading)
            log.log(logging.WARNING if now > before else logging.INFO, "memory level %d: %s", now, sentence)
            self._on_change(now, sentence)
