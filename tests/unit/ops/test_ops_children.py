"""Processes that are kept running: how one that ends is started again."""

from pathlib import Path

import pytest

from worker.ops.children import LONGEST_PAUSE, STEADY, Kept


class Clock:
    """A clock that is moved by hand."""

    now = 1000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


class Mortal:
    """A process that dies when told to, and may refuse to be born."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.starts = 0
        self.stillborn = False

    def poll(self) -> int | None:
        """Tell how it ended."""
        return self.status

    def restart(self) -> None:
        """Live again."""
        self.starts += 1
        if self.stillborn:
            raise OSError
        self.status = None


@pytest.fixture
def clock() -> Clock:
    """Give the clock."""
    return Clock()


@pytest.fixture
def mortal() -> Mortal:
    """Give the process."""
    return Mortal()


@pytest.fixture
def kept(mortal: Mortal, clock: Clock) -> Kept:
    """Give what keeps it running."""
    return Kept("worker-1", mortal, Path("worker-1.log"), clock)


def _pause(kept: Kept, mortal: Mortal, clock: Clock) -> float:
    """Let it die, and measure after how many seconds it is started again."""
    mortal.status = 1
    starts, died = mortal.starts, clock.now
    kept.look()
    while mortal.starts == starts:
        clock.now += 0.5
        kept.look()
    return clock.now - died


def test_what_runs_is_left_alone(kept: Kept, mortal: Mortal, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is said and nothing started."""
    kept.look()
    assert mortal.starts == 0
    assert capsys.readouterr().err == ""


def test_what_ends_is_started_again_and_said(
    kept: Kept, mortal: Mortal, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, after a second, with where to look for the reason."""
    assert _pause(kept, mortal, clock) == 1.0
    kept.look()
    assert mortal.starts == 1
    assert capsys.readouterr().err == (
        "worker-1 ended with status 1; it is started again in 1 s (see worker-1.log)\n"
    )


def test_what_keeps_ending_is_started_ever_more_slowly(kept: Kept, mortal: Mortal, clock: Clock) -> None:
    """The pause doubles up to a bound; after a steady run it begins anew."""
    assert [_pause(kept, mortal, clock) for _ in range(7)] == [1, 2, 4, 8, 16, LONGEST_PAUSE, LONGEST_PAUSE]
    clock.now += STEADY + 1
    assert _pause(kept, mortal, clock) == 1.0


def test_what_does_not_start_is_tried_again(
    kept: Kept, mortal: Mortal, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """A start that fails counts as another death."""
    mortal.stillborn = True
    _pause(kept, mortal, clock)
    assert "did not start (OSError); it is started again in 2 s" in capsys.readouterr().err
    mortal.stillborn = False
    clock.now += 2
    kept.look()
    assert mortal.status is None
    assert mortal.starts == 2
