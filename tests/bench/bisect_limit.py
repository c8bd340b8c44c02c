"""Finds the smallest limit at which something still works."""

from collections.abc import Callable


def smallest(works: Callable[[int], bool], low: int, high: int, step: int) -> int | None:
    """The smallest of low, low + step, ... up to high that works, if what works goes on working above it.

    None when not even `high` works. Tries as few as it can: each takes a while.
    """
    count = (high - low) // step
    if not works(low + count * step):
        return None
    fails, fits = -1, count
    while fits - fails > 1:
        middle = (fails + fits) // 2
        if works(low + middle * step):
            fits = middle
        else:
            fails = middle
    return low + fits * step
