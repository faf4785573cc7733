"""Everything that a delivery needs, for the stories of what meets in an unlucky order."""

from collections.abc import Iterator

import pytest

from tests.stories import Works, working
from worker.simulator.run import Background


@pytest.fixture
def works(database_url: str, simulator: Background) -> Iterator[Works]:
    """Give a store and the API's stand-in; at the end the witness has to have seen nothing amiss."""
    with working(database_url, simulator) as given:
        yield given
