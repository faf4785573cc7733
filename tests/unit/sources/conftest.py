"""Sources to read: made of bytes, by the shortest way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from worker.intake.sources import Entry, Options, Rejected, open_source

Read = Callable[..., list[Entry | Rejected]]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Write bytes to a file and read it as a source with a route."""

    def _read(
        content: bytes, name: str = "backlog", kind: str = "auto", **options: Any
    ) -> list[Entry | Rejected]:
        path = tmp_path / name
        path.write_bytes(content)
        return list(open_source(path, kind, Options(**{"route": "Email", **options})))

    return _read


@pytest.fixture
def job(read: Read) -> Callable[..., dict[str, Any]]:
    """Read an email of the given headers; returns its job."""

    def _job(headers: bytes, **options: Any) -> dict[str, Any]:
        [entry] = read(headers + b"\n\nHello\n", "one.eml", "eml", **options)
        assert isinstance(entry, Entry), entry
        return entry.job

    return _job
