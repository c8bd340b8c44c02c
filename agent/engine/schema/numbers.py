"""Decimal numbers between two bounds, in GBNF."""

import math
from fractions import Fraction

# Whole numbers of 15 digits are exact in the doubles that most JSON readers use.
MAX_DIGITS = 15
LARGEST = 10**MAX_DIGITS - 1
# A bound may have so many decimals, and a number between bounds so many more.
MAX_DECIMALS = 6

Bound = tuple[Fraction, bool] | None
"""A value, and whether the value itself is not allowed."""

_UNBOUNDED_WHOLE = f'"-"? ("0" | [1-9] [0-9]{{0,{MAX_DIGITS - 1}}})'
_UNBOUNDED = f'{_UNBOUNDED_WHOLE} ("." [0-9]{{1,{MAX_DIGITS}}})? ([eE] [+-]? [0-9]{{1,2}})?'


def whole(low: Bound = None, high: Bound = None) -> str:
    """Whole numbers of at most MAX_DIGITS digits; empty when none lies between the bounds."""
    if low is None and high is None:
        return _UNBOUNDED_WHOLE
    return " | ".join(_signed(*_steps(low, high, 0), 0))


def number(low: Bound = None, high: Bound = None) -> str:
    """Numbers, without an exponent where there are bounds; empty when none can be written.

    The bounds are rounded inwards to MAX_DECIMALS decimals. Between two neighbouring steps of so
    many decimals as the bounds have, every number with more of them is allowed.
    """
    if low is None and high is None:
        return _UNBOUNDED
    decimals = max(_decimals(low), _decimals(high))
    parts = [part for count in range(decimals + 1) for part in _signed(*_steps(low, high, count), count)]
    # A gap is named by its lower end; its numbers stay off both ends, which may be forbidden.
    gap_low = None if low is None else (low[0], False)
    gap_high = None if high is None else (high[0], False)
    first, last = _steps(gap_low, gap_high, decimals)
    point = "" if decimals else '"." '
    tail = f"{point}[0-9]{{0,{MAX_DECIMALS - 1}}} [1-9]"
    if first < 0 and first < last:
        below_zero = " | ".join(_unsigned(max(0, -last), -first - 1, decimals))
        parts.append(f'"-" ({below_zero}) {tail}')
    if last > 0 and first < last:
        parts.append(f"({' | '.join(_unsigned(max(0, first), last - 1, decimals))}) {tail}")
    return " | ".join(parts)


def _decimals(bound: Bound) -> int:
    """How many decimals the bound has, MAX_DECIMALS at most."""
    if bound is None:
        return 0
    return next((n for n in range(MAX_DECIMALS) if (bound[0] * 10**n).denominator == 1), MAX_DECIMALS)


def _steps(low: Bound, high: Bound, decimals: int) -> tuple[int, int]:
    """The first and the last number allowed, in units of the last decimal."""
    scale = 10**decimals
    first, last = -LARGEST * scale, LARGEST * scale
    if low is not None:
        scaled = low[0] * scale
        first = max(first, math.floor(scaled) + 1 if low[1] else math.ceil(scaled))
    if high is not None:
        scaled = high[0] * scale
        last = min(last, math.ceil(scaled) - 1 if high[1] else math.floor(scaled))
    return first, last


def _signed(first: int, last: int, decimals: int) -> list[str]:
    """Alternatives for the numbers from `first` to `last` units; zero has no sign."""
    parts = []
    if first < 0 and first <= last:
        parts.append(f'"-" ({" | ".join(_unsigned(max(1, -last), -first, decimals))})')
    if last >= 0 and first <= last:
        parts += _unsigned(max(0, first), last, decimals)
    return parts


def _unsigned(first: int, last: int, decimals: int) -> list[str]:
    """One alternative for each number of digits."""
    parts = []
    shortest = max(len(str(first)), decimals + 1)
    for length in range(shortest, max(len(str(last)), decimals + 1) + 1):
        least = 0 if length == decimals + 1 else 10 ** (length - 1)
        low, high = max(first, least), min(last, 10**length - 1)
        parts.append(_between(str(low).zfill(length), str(high).zfill(length), decimals))
    return parts


def _between(low: str, high: str, decimals: int) -> str:
    """Digits from `low` to `high`, which are equally long; a point stands before the last `decimals`."""
    if not low:
        return ""
    point = '"." ' if decimals and len(low) == decimals else ""
    if set(low) == {"0"} and set(high) == {"9"}:
        return point + _any_digits(len(low), decimals)
    start, stop = int(low[0]), int(high[0])
    if start == stop:
        return f'{point}"{start}" {_between(low[1:], high[1:], decimals)}'.strip()
    parts = []
    rest = len(low) - 1
    if low[1:].strip("0"):
        parts.append(f'"{start}" {_between(low[1:], "9" * rest, decimals)}')
        start += 1
    if high[1:].strip("9"):
        parts.append(f'"{stop}" {_between("0" * rest, high[1:], decimals)}')
        stop -= 1
    if start <= stop:
        parts.append(f"[{start}-{stop}] {_between('0' * rest, '9' * rest, decimals)}")
    return f"{point}({' | '.join(part.strip() for part in parts)})"


def _any_digits(count: int, decimals: int) -> str:
    if not decimals or count <= decimals:
        return f"[0-9]{{{count}}}"
    return f'[0-9]{{{count - decimals}}} "." [0-9]{{{decimals}}}'
