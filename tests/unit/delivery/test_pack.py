"""Rows into the body of one Invocation."""

import json
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.delivery.pack import pack
from worker.store.claim import Claimed

_ids = count(1)


def claimed(size: int = 10, action: str = "dispatch") -> Claimed:
    """Make a claimed row that carries so many letters."""
    request = {"routingdata": {"interactiontype": "nonlive"}, "extra": {"x": "x" * size}}
    return Claimed(next(_ids), "e", action, "q", "R" if action == "dispatch" else None, request)


def test_all_fit() -> None:
    """Rows that fit travel together, under their provider, in their order."""
    packed = pack("P", [claimed(1), claimed(action="release")])
    dispatched = {"action": "dispatch", "requestid": "q", "externalid": "e", "route": "R", "x": "x"}
    assert json.loads(packed.body) == {
        "provider": "P",
        "requests": [
            {**dispatched, "routingdata": {"interactiontype": "nonlive"}},
            {"action": "release", "requestid": "q", "externalid": "e"},
        ],
    }
    assert packed.left == []


@pytest.mark.parametrize(("spare", "left"), [(0, 0), (-1, 1)])
def test_limit_is_exact(spare: int, left: int) -> None:
    """A body of exactly the limit goes whole, one byte more leaves the last row behind."""
    rows = [claimed(100), claimed(200), claimed(300)]
    whole = len(pack("P", rows).body)
    packed = pack("P", rows, whole + spare)
    assert packed.left == rows[3 - left :]
    assert len(packed.body) <= whole + spare


def test_too_large_a_row_goes_alone() -> None:
    """A row over the limit is for the API to judge, and takes nobody along."""
    rows = [claimed(1_000), claimed()]
    packed = pack("", rows, 500)
    assert (len(packed.body) > 500, packed.left) == (True, rows[1:])


@given(st.lists(st.integers(0, 400), min_size=1, max_size=30), st.integers(100, 4_000))
def test_no_body_is_over_the_limit(sizes: list[int], limit: int) -> None:
    """What is packed fits, unless it is one row; no row is lost and none is twice."""
    rows = [claimed(size) for size in sizes]
    packed = pack("", rows, limit)
    taken = len(json.loads(packed.body)["requests"])
    assert [*rows[:taken], *packed.left] == rows
    assert taken == 1 or len(packed.body) <= limit
