"""``/metrics``: one list of what is measured, and each value read where it stands, in the table and in Redis.

Nothing is counted by a process. So any number of workers shows as one, and no restart sets a counter back. The two
halves are asked apart and neither for long: where one is away the other's values are there, and ``vcc_up`` says so.
"""

import hmac
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from itertools import accumulate, product
from typing import Any, Literal, get_args

from prometheus_client import core
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from worker.client import STREAM
from worker.consumption import FORGOTTEN_AFTER, KEY
from worker.domain.lifecycle import State
from worker.domain.outcome import Outcome
from worker.ops.probing import probe
from worker.ops.queues import inbox
from worker.settings import SettingsError
from worker.store import browse
from worker.store.tallies import BUCKETS, Total, totals
from worker.store.vitals import vitals

PATIENCE = 4.0
"""Seconds that a half may take; Prometheus waits for ten."""

QUEUES = ("intake", "deliver", "upkeep")
"""Celery's; with RabbitMQ their lengths are RabbitMQ's to tell."""

LANES = ("live", "backlog")
REASONS = ("paused", "throttled", "unauthorised", "unreachable", "misconfigured")
OUTCOMES = (*(kind.name for kind in get_args(Outcome)), "lost")

AWAY = (SQLAlchemyError, RedisError, SettingsError, OSError)
"""How it shows that a server can't be asked; no answer in time is an OSError as well."""

Samples = Mapping[str, Mapping[tuple[str, ...], Any]]
"""By a metric's name and the values of its labels."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One thing that is measured.

    Attributes:
        name: as Prometheus knows it.
        kind: gauge, counter or histogram.
        labels: their names.
        unit: of the panel, in Grafana's words.
        row: of the dashboard.
        title: of the panel.
        help: what it says, for ``/metrics``, the panel and the documents.
    """

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    labels: tuple[str, ...]
    unit: str
    row: str
    title: str
    help: str


def _gauge(name: str, unit: str, row: str, title: str, text: str, *labels: str) -> Metric:
    return Metric(f"vcc_{name}", "gauge", labels, unit, row, title, text)


WHOLE, LINE, CALLS, DOORS, WORKERS = "The whole", "The line", "Calls", "Doors", "Workers"

LIST = (
    _gauge(
        "up", "bool", WHOLE, "Servers", "Whether the database, and Redis, answered just now: 1 or 0.", "part"
    ),
    _gauge(
        "interactions", "short", WHOLE, "Interactions by state",
        "Interactions in the table, as last counted.", "state", "lane",
    ),
    _gauge(
        "leaks", "short", WHOLE, "Never released",
        "Interactions dispatched longer than VCC_LEAK_AFTER ago without a release, as last counted.",
    ),
    _gauge(
        "failures_recent", "short", WHOLE, "Failures lately",
        "Interactions that were given up within the last quarter of an hour, as last counted.",
    ),
    _gauge("rejections", "short", WHOLE, "Rejections", "Rejected jobs that are kept, as last counted."),
    _gauge(
        "rejections_recent", "short", WHOLE, "Rejections lately",
        "Jobs that were rejected within the last quarter of an hour, as last counted.",
    ),
    _gauge(
        "imports", "short", WHOLE, "Imports",
        "Batch imports that run, and those that have not been heard of for half a minute.", "condition",
    ),
    _gauge(
        "counts_age_seconds", "s", WHOLE, "Age of the counts",
        "Seconds since interactions were last counted; the larger the table, the seldomer.",
    ),
    _gauge("due", "short", LINE, "Due", "Interactions that are due to be sent, as last counted.", "lane"),
    _gauge(
        "oldest_due_seconds", "s", LINE, "Oldest due",
        "Seconds for which the most overdue interaction has been due; 0 where none is.", "lane",
    ),
    _gauge("in_flight", "short", LINE, "In flight", "Interactions that a call carries, as last counted."),
    _gauge("valve_open", "bool", LINE, "Valve", "Whether calls are made freely: 1 or 0."),
    _gauge(
        "valve_closed", "bool", LINE, "Valve closed by", "1 for the reason that the valve is closed for.", "reason"
    ),
    _gauge(
        "valve_opens_in_seconds", "s", LINE, "Valve tries again in",
        "Seconds until a closed valve lets the next call try; 0 where it may, or where an operator has to resume.",
    ),
    _gauge("held_routes", "short", LINE, "Held routes", "Routes that are held after 20 refusals in a row."),
    _gauge("held_providers", "short", LINE, "Held providers", "Providers that these credentials may not use."),
    Metric(
        "vcc_calls_total", "counter", ("outcome",), "cps", CALLS, "Calls",
        "Calls of Invoke since ever, by what came of them.",
    ),
    Metric(
        "vcc_calls_interactions_total", "counter", ("outcome",), "cps", CALLS, "Interactions carried",
        "Interactions that calls of Invoke carried since ever, by what came of the call.",
    ),
    Metric(
        "vcc_call_duration_seconds", "histogram", ("outcome",), "s", CALLS, "How long calls take",
        "Seconds that calls of Invoke took; calls that nobody heard of again have none.",
    ),
    _gauge(
        "rate_calls_per_second", "cps", CALLS, "Rate",
        "Calls per second allowed: set by VCC_RATE, learned from a 429. None where none binds.", "origin",
    ),
    _gauge("stream_entries", "short", DOORS, "Stream", "Entries of the stream that are not taken in yet."),
    _gauge(
        "stream_oldest_seconds", "s", DOORS, "Stream's oldest entry", "Seconds since the oldest of them came."
    ),
    _gauge(
        "inbox_rows", "short", DOORS, "Inbox", "Rows of the inbox that are not taken in yet; 100000 at most."
    ),
    _gauge("inbox_oldest_seconds", "s", DOORS, "Inbox's oldest row", "Seconds since the oldest of them came."),
    _gauge(
        "queue_messages", "short", DOORS, "Celery's queues",
        "Messages in Celery's queues that no worker has taken yet; not with RabbitMQ.", "queue",
    ),
    _gauge(
        "worker_silence_seconds", "s", WORKERS, "Silence",
        "Seconds since a worker was last done with something of a queue's, or looked at a door; by Redis's clock.",
        "queue", "worker",
    ),
)  # fmt: skip


# --- the answer -----------------------------------------------------------------------------------


def endpoint(request: Request) -> Response:
    """Answer Prometheus: where a token is set, whoever has it; else this machine only."""
    token = request.app.state.deps.settings.metrics_token
    if token is not None and not _bears(request, token.get_secret_value()):
        return PlainTextResponse(
            "This needs the token of VCC_METRICS_TOKEN.\n", 401, {"WWW-Authenticate": "Bearer"}
        )
    if token is None and not _is_near(request):
        return PlainTextResponse("For other machines than this one, set VCC_METRICS_TOKEN.\n", 403)
    return Response(collect(request.app.state), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})


def _bears(request: Request, token: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


def _is_near(request: Request) -> bool:
    try:
        return request.client is not None and ip_address(request.client.host).is_loopback
    except ValueError:
        return False


def collect(state: Any) -> bytes:
    """Ask both halves, and write down what they say.

    Args:
        state: the application's, with its ``deps``.
    """
    deps = state.deps
    samples: dict[str, Any] = {"vcc_up": {}}
    for part, ask in (("database", _database), ("redis", _redis)):
        found = _asked(state, part, partial(ask, deps))
        samples["vcc_up"][part,] = found is not None
        samples.update(found or {})
    samples.update(_counted(deps))
    return generate_latest(_Collector(samples))


def _asked(state: Any, part: str, ask: Callable[[], Samples]) -> Samples | None:
    try:
        return probe(state, f"metrics {part}", ask).answer(PATIENCE)
    except AWAY:
        return None


class _Collector:
    """What was found, in the list's order."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def collect(self) -> Iterator[core.Metric]:
        """Make a family of each metric that has values."""
        return (_family(metric, found) for metric in LIST if (found := self._samples.get(metric.name)))


def _family(metric: Metric, found: Mapping[tuple[str, ...], Any]) -> core.Metric:
    if metric.kind == "histogram":
        family = core.HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, total in found.items():
            family.add_metric(labels, list(_cumulative(total)), total.seconds)
        return family
    kind = core.GaugeMetricFamily if metric.kind == "gauge" else core.CounterMetricFamily
    plain = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in found.items():
        plain.add_metric(labels, float(value))
    return plain


def _cumulative(total: Total) -> Iterable[tuple[str, float]]:
    names = ["+Inf" if bound == BUCKETS[-1] else str(bound) for bound in BUCKETS]
    return zip(names, accumulate(total.buckets), strict=True)


# --- what is asked --------------------------------------------------------------------------------


def _database(deps: Any) -> Samples:
    """Read what the table knows without counting; each by an index."""
    with deps.engine.begin() as conn:
        conn.exec_driver_sql(f"set local statement_timeout = '{PATIENCE}s'")
        now = vitals(conn)
        waiting = inbox(conn)
        oldest = browse.due_by_lane(conn)
        ever = dict.fromkeys(OUTCOMES, Total(0, 0, 0.0, [0] * len(BUCKETS))) | totals(conn)
        imports = [one for one in browse.running_imports(conn) if one["ended_at"] is None]
    rates = {"learned": now.rate, "set": deps.settings.rate}
    silent = sum(one["silent"] for one in imports)
    return {
        "vcc_oldest_due_seconds": {(lane,): of["oldest_seconds"] or 0 for lane, of in oldest.items()},
        "vcc_valve_open": {(): now.open},
        "vcc_valve_closed": {(reason,): reason == now.reason and not now.open for reason in REASONS},
        "vcc_valve_opens_in_seconds": {(): now.opens_in},
        "vcc_held_routes": {(): now.routes},
        "vcc_held_providers": {(): now.providers},
        "vcc_calls_total": {(outcome,): total.calls for outcome, total in ever.items()},
        "vcc_calls_interactions_total": {(outcome,): total.interactions for outcome, total in ever.items()},
        "vcc_call_duration_seconds": {(outcome,): total for outcome, total in ever.items()},
        "vcc_rate_calls_per_second": {(of,): rate for of, rate in rates.items() if rate is not None},
        "vcc_inbox_rows": {(): waiting["length"]},
        "vcc_inbox_oldest_seconds": {(): waiting["oldest_seconds"] or 0},
        "vcc_imports": {("running",): len(imports) - silent, ("silent",): silent},
    }


def _redis(deps: Any) -> Samples:
    """Read what Redis knows, in one round trip."""
    queues = QUEUES if deps.settings.broker_url is None else ()
    with deps.redis().pipeline(transaction=False) as pipeline:
        pipeline.time()
        pipeline.hgetall(KEY)
        pipeline.xlen(STREAM)
        pipeline.xrange(STREAM, count=1)
        for queue in queues:
            pipeline.llen(queue)
        (seconds, micros), consumed, length, oldest, *lengths = pipeline.execute()
    now = seconds + micros / 1e6
    came = [int(_text(entry).partition("-")[0]) / 1000 for entry, _ in oldest]
    return {
        "vcc_stream_entries": {(): length},
        "vcc_stream_oldest_seconds": {(): max(now - came[0], 0) if came else 0},
        "vcc_queue_messages": {(queue,): many for queue, many in zip(queues, lengths, strict=True)},
        "vcc_worker_silence_seconds": dict(_silence(consumed, now)),
    }


def _silence(found: Mapping[Any, Any], now: float) -> Iterator[tuple[tuple[str, str], float]]:
    for field, value in found.items():
        queue, _, worker = _text(field).partition(" ")
        with suppress(ValueError):  # what no worker has written
            if worker and (silence := now - float(value)) < FORGOTTEN_AFTER:
                yield (queue, worker), max(silence, 0)


def _text(said: Any) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)


def _counted(deps: Any) -> Samples:
    """Give what is counted now and then, by whoever looks."""
    counts = deps.census.counts()
    if counts is None:
        return {}
    states: dict[tuple[str, ...], int] = {
        key: counts.states.get(key, 0) for key in product(map(str, State), LANES)
    }
    return {
        "vcc_interactions": states,
        "vcc_leaks": {(): counts.leaks},
        "vcc_failures_recent": {(): counts.failed_lately},
        "vcc_rejections": {(): counts.rejections},
        "vcc_rejections_recent": {(): counts.rejected_lately},
        "vcc_due": {(lane,): many for lane, many in counts.due.items()},
        "vcc_in_flight": {(): counts.in_flight},
        "vcc_counts_age_seconds": {(): max(time.time() - counts.at.timestamp(), 0)},
    }
