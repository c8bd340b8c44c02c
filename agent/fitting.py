"""As much of a list as fits into so many bytes."""

from collections.abc import Callable


def fitted(make: Callable[[int], bytes], num_items: int, max_bytes: int) -> bytes | None:
    """`make(n)` for the largest n up to `num_items` whose result has `max_bytes` at most; None where not even
    `make(0)` does. More items make more bytes."""
    content = make(num_items)
    if len(content) <= max_bytes:
        return content
    fits, low, high = None, 0, num_items - 1
    while low <= high:
        middle = (low + high) // 2
        content = make(middle)
        if len(content) <= max_bytes:
            fits, low = content, middle + 1
        else:
            high = middle - 1
    return fits
