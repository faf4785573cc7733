"""Where a thread is in a trace, as the W3C writes it (*Trace Context*): what a job brings along of its producer's."""

import sys
from typing import Any


def traceparent() -> str:
    """Name it; empty where there is none. Who has no OpenTelemetry pays for a look into a table."""
    api: Any = sys.modules.get("opentelemetry.trace")
    found = api and api.get_current_span().get_span_context()
    if not (found and found.is_valid):
        return ""
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"
