"""The overview: is it getting through, how long is the line, what is stuck, and why is it paused."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from redis import Redis
from starlette.requests import Request
from starlette.responses import Response

from worker.ops import queues
from worker.ops.web import charts
from worker.ops.web.deps import Deps, deps
from worker.ops.web.render import page
from worker.settings import SettingsError
from worker.store import audit, browse, tallies
from worker.store.glance import stuck
from worker.store.tallies import BUCKETS, Bin, percentile

HOUR, MINUTE, DAY, STEP = 3600.0, 60.0, 86_400.0, 600.0


def overview(request: Request) -> Response:
    """Show the whole; nothing on it is counted while somebody waits."""
    with_ = deps(request)
    counts = with_.census.counts()
    stream = queues.stream(_redis(with_))  # no connection of the database waits for a Redis that hangs
    with with_.engine.connect() as conn:
        hour, day = tallies.series(conn, HOUR, MINUTE), tallies.series(conn, DAY, STEP)
        shown = {
            **stuck(conn),
            "pause": audit.pause(conn),
            "imports": browse.running_imports(conn),
            "due": browse.due_by_lane(conn),
            "doors": {"stream": stream, "inbox": queues.inbox(conn)},
            "failures": browse.failures(conn),
        }
    return page(
        request,
        "overview.html",
        **shown,
        counts=counts,
        counted_ago=(datetime.now(UTC) - counts.at).total_seconds() if counts else 0.0,
        rate=with_.settings.rate,
        leak_after=with_.settings.leak_after,
        hour=_both(hour, MINUTE),
        day=_both(day, STEP),
        latency=charts.latencies("Latency over the last hour", hour),
        percentiles=_percentiles(hour),
    )


def _redis(with_: Deps) -> "Redis | None":
    with suppress(SettingsError):
        return with_.redis()
    return None


def _both(bins: Sequence[Bin], step: float) -> list[charts.Chart]:
    """Draw whole steps: one that is not over yet would look like a fall."""
    minutes = step / 60
    return [
        charts.stacked("Calls a minute", bins[:-1], 0, minutes),
        charts.stacked("Interactions a minute", bins[:-1], 1, minutes),
    ]


def _percentiles(bins: Sequence[Bin]) -> list[tuple[str, float | None]]:
    summed = [sum(one.buckets[n] for one in bins) for n in range(len(BUCKETS))]
    return [(f"p{q * 100:.0f}", percentile(summed, q)) for q in charts.QUANTILES]
