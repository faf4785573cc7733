"""Requestids of our own."""

from datetime import UTC, datetime, timedelta
from uuid import RFC_4122, UUID

import pytest

from worker.domain.requestid import new_requestid


def test_requestids_differ() -> None:
    """However many are made in one millisecond, no two are the same."""
    assert len({new_requestid() for _ in range(10_000)}) == 10_000


def test_requestid_is_a_uuid_of_version_7() -> None:
    """Anybody can read one as what it is."""
    for made in (UUID(new_requestid()) for _ in range(100)):
        assert (made.version, made.variant) == (7, RFC_4122)


def test_requestid_tells_when_it_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first 48 bits are the milliseconds since 1970, so those of one moment sort together."""
    moment = datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)
    since = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    monkeypatch.setattr("time.time_ns", lambda: since * 1000)
    assert UUID(new_requestid()).int >> 80 == since // 1000
