"""What drivers answer when they are asked for their GPUs. No ctypes here: the daemon needs only the word."""

from msgspec import Struct

from agent.hardware.machine import Gpu


class Asked(Struct, frozen=True):
    """`reason` says why the answer is not whole, with the next step; empty when everybody could be asked.

    That a driver is not installed is an answer, and no reason.
    """

    gpus: tuple[Gpu, ...] = ()
    reason: str = ""
