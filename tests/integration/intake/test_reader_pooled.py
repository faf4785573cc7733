"""A door's readers through PgBouncer in transaction mode."""

import random

import pytest
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError

from tests.factories import opened
from tests.installed import pgbouncer
from tests.integration.intake.test_reader import Battle, House, house, in_order, terms
from worker.intake import reader as readers
from worker.intake.reader import Onward

__all__ = ["house"]


@pytest.mark.parametrize("few", [0, 20])
def test_order_is_kept_through_a_pooler(house: House, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    """Two readers, whose connections end every few milliseconds, take in everything once, and in its order."""
    monkeypatch.setattr(readers, "BATCH", 9)
    monkeypatch.setattr(readers, "FEW", few)
    battle = Battle(house, random.Random(1))
    with (
        pgbouncer(house.database_url) as pooler,
        opened(pooler.url) as one,
        opened(pooler.url) as other,
    ):
        battle.fight([(engine, Onward(terms, house.went.append)) for engine in (one, other)])
    unexpected = [error for error in battle.raised if not isinstance(error, DBAPIError | RedisError)]
    assert (unexpected, min(battle.sat) > 3) == ([], True)
    in_order(house.store)
