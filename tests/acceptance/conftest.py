"""The stand, for every test here."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.stand import Stand, standing
from worker.simulator.run import Background


@pytest.fixture
def stand(database_url: str, redis_url: str, simulator: Background, tmp_path: Path) -> Iterator[Stand]:
    """Give servers that run, and a hand to start workers beside them."""
    with standing(Stand(database_url, redis_url, simulator, tmp_path)) as ready:
        yield ready
