"""The wait before another try."""

import doctest

from hypothesis import given
from hypothesis import strategies as st

from worker.domain import backoff


@given(st.integers(-5, 10_000), st.floats(0, 1))
def test_wait_is_never_zero_and_never_past_its_cap(attempt: int, chance: float) -> None:
    """However many tries there were, the wait is between three quarters of the base and the jittered cap."""
    assert 0.75 <= backoff.backoff(attempt, chance) <= 75.0


@given(st.integers(1, 100), st.floats(0, 1))
def test_wait_grows_with_every_attempt(attempt: int, chance: float) -> None:
    """With the same luck another attempt never waits less."""
    assert backoff.backoff(attempt + 1, chance) >= backoff.backoff(attempt, chance)


def test_examples() -> None:
    """The examples in its docstring hold."""
    found = doctest.testmod(backoff)
    assert found.attempted
    assert not found.failed
