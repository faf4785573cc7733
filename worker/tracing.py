"""Traces, where they are asked for: what everybody may import, since it costs nothing as long as nobody asks.

``worker.telemetry`` does it. It is imported when a worker starts, if OTEL_EXPORTER_OTLP_ENDPOINT is set.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

WANTED = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")

_telemetry: Any = None
_off: AbstractContextManager[None] = nullcontext()


def start(kept: Any, exporter: Any = None) -> bool | None:
    """Trace from now on, in this process and in those forked from it.

    Args:
        kept: gives a connection to Redis, where a job's trace waits for its call.
        exporter: takes the spans, in place of what the environment names.

    Returns:
        Whether it does, or the extra ``otel`` is not installed; None if nobody asked.
    """
    global _telemetry  # noqa: PLW0603 - the one switch
    if exporter is None and not any(map(os.environ.get, WANTED)):
        return None
    try:
        from worker import telemetry  # noqa: PLC0415 - only where it is asked for
    except ModuleNotFoundError:
        return False

    telemetry.start(kept, exporter)
    _telemetry = telemetry
    return True


def stop() -> None:
    """Send what is left, and trace no more."""
    global _telemetry  # noqa: PLW0603 - likewise
    if _telemetry is not None:
        _telemetry.stop()
        _telemetry = None


def flush() -> None:
    """Send what is left, if that can be done in a moment."""
    if _telemetry is not None:
        _telemetry.flush()


def recording(door: str, jobs: Iterable[tuple[str, str]]) -> AbstractContextManager[Any]:
    """Record jobs (of each the producer's traceparent, the requestid) in their producer's trace."""
    return _off if _telemetry is None else _telemetry.recording(door, list(jobs))


def calling(invocation: int, rows: Sequence[Any], since: float) -> AbstractContextManager[Any]:
    """Make a call in the trace of what it carries: of rows that were claimed, begun at a monotonic moment."""
    return _off if _telemetry is None else _telemetry.calling(invocation, rows, since)


def came_to(outcome: str) -> None:
    """Tell what came of the call."""
    if _telemetry is not None:
        _telemetry.came_to(outcome)
