"""A store on a fresh, migrated database."""

from collections.abc import Iterator

import pytest

from tests.factories import Store, opened


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    """Give a store that holds nothing yet."""
    with opened(database_url) as engine:
        yield Store(engine)
