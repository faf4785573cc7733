"""A running simulator, and somebody who calls it."""

from collections.abc import Iterator

import pytest

from tests.unit.simulator.caller import Caller
from worker.simulator.run import Background


@pytest.fixture(scope="module")
def _running() -> Iterator[Background]:
    with Background() as simulator:
        yield simulator


@pytest.fixture
def sim(_running: Background) -> Background:
    """Give a simulator with a new book and without faults."""
    _running.clear_faults()
    _running.new_book()
    return _running


@pytest.fixture
def caller(sim: Background) -> Iterator[Caller]:
    """Give a caller that has a token."""
    made = Caller(sim.url)
    made.log_in()
    yield made
    made.http.close()
