"""Everything that a delivery needs, for the stories of what meets in an unlucky order."""

from collections.abc import Iterator

import pytest

from tests.stories import Works, working
from worker.simulator.run import Background


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for the first census however busy the machine is: who asks here asks once."""
    monkeypatch.setattr("worker.ops.census.FIRST", 60.0)


@pytest.fixture
def works(database_url: str, simulator: Background) -> Iterator[Works]:
    """Give a store and the API's stand-in; at the end the witness has to have seen nothing amiss."""
    with working(database_url, simulator) as given:
        yield given
