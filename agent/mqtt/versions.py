"""Which version of MQTT to speak: 5, and 3.1.1 for an hour where that is not understood."""

import logging
import time

from agent.mqtt.wire import ClosedUnheard, ProtocolRefused

log = logging.getLogger(__name__)

# Connections without a CONNACK after which an old broker is assumed; more where 5 was spoken before, for a
# broker that hangs accepts connections too.
REFUSALS_BEFORE_V311 = 2
REFUSALS_ONCE_SPOKEN = 8
TRY_V5_AGAIN_S = 3600.0


class Versions:
    """`protocol` is the setting: auto, 5 or 3.1.1."""

    def __init__(self, protocol: str) -> None:
        self._is_auto = protocol == "auto"
        self._is_v5 = protocol != "3.1.1"
        self._has_spoken_v5 = False
        self._num_refusals = 0
        self._downgraded_at = 0.0

    @property
    def is_downgraded(self) -> bool:
        """3.1.1 for want of better."""
        return self._is_auto and not self._is_v5

    @property
    def stay_s(self) -> float | None:
        """How long a connection may last before the other version is tried; None: for ever."""
        return TRY_V5_AGAIN_S if self.is_downgraded else None

    def choose(self) -> bool:
        """True to connect with MQTT 5 now."""
        if self.is_downgraded and time.monotonic() - self._downgraded_at > TRY_V5_AGAIN_S:
            self._is_v5 = True
        return self._is_v5

    def succeeded(self) -> None:
        """The broker answered."""
        self._num_refusals = 0
        self._has_spoken_v5 = self._has_spoken_v5 or self._is_v5

    def failed(self, error: BaseException) -> None:
        """It did not."""
        is_unheard = isinstance(error, ClosedUnheard)
        self._num_refusals += is_unheard
        if self.is_downgraded and is_unheard:
            # Not a matter of the version, then: something in between answers for a broker that is away.
            self._is_v5 = True
            self._num_refusals = 0
            return
        patience = REFUSALS_ONCE_SPOKEN if self._has_spoken_v5 else REFUSALS_BEFORE_V311
        is_refused = isinstance(error, ProtocolRefused) or self._num_refusals >= patience
        if not (self._is_auto and self._is_v5 and is_refused):
            return
        self._is_v5 = False
        self._num_refusals = 0
        self._downgraded_at = time.monotonic()
        log.info("the broker does not speak MQTT 5; using 3.1.1")
