"""What was logged, with all its keys: caplog by itself knows the events only."""

from typing import Any

import pytest

from worker import logs


def lines(caplog: pytest.LogCaptureFixture, event: str = "") -> list[dict[str, Any]]:
    """Give the lines as they would be written, or those of one event."""
    found = [logs.line(record) for record in caplog.records]
    return [line for line in found if event in ("", line["event"])]


def text(caplog: pytest.LogCaptureFixture) -> str:
    """Give all that would be written."""
    return "\n".join(logs.Json().format(record) for record in caplog.records)
