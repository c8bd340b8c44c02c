"""The line before a full box: places are kept for those who wait, and not for ever."""

from agent.line import GRACE_S, Line


def test_the_order_is_that_of_the_first_refusal() -> None:
    """Asking again does not move a client, neither forward nor back."""
    line = Line()
    for name in ("a", "b", "a"):
        line.promise(name, 10)
    assert [line.num_before(name, 0) for name in ("a", "b", "new")] == [0, 1, 2]
    line.leave("a")
    assert [line.num_before(name, 0) for name in ("a", "b")] == [1, 0]


def test_who_does_not_come_back_loses_its_place() -> None:
    """Some seconds after it was to come; one who came again was told another time."""
    line = Line()
    line.promise("gone", 10)
    line.promise("patient", 10)
    line.promise("patient", 20)
    assert line.num_before("new", 10 + GRACE_S) == 2
    assert line.num_before("new", 10 + GRACE_S + 1) == 1
    assert line.num_before("gone", 10 + GRACE_S + 1) == 1


def test_the_line_is_bounded() -> None:
    """Whoever comes when it is full is behind all of it, and takes no memory."""
    line = Line(max_waiting=2)
    for name in ("a", "b", "c"):
        line.promise(name, 10)
    assert len(line) == 2
    assert line.num_before("c", 0) == 2
