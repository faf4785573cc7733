"""Tracing with OpenTelemetry: one trace from a producer, through Celery or the stream, to the settling of its call.

What is recorded now may be sent later, by another process: in between, the name of its trace waits in Redis under its
requestid, until VCC has accepted that. If it is lost, a trace is in two pieces, and no more.
"""

import atexit
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from hashlib import blake2b
from typing import Any

from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.celery import CeleryInstrumentor
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from redis import Redis
from redis.exceptions import RedisError

from worker.settings import SettingsError
from worker.traceparent import traceparent

KEY = "vcc:trace:"
DISPATCHED = "vcc:dispatch-trace:"
KEPT = 86_400
"""Seconds for which a job's trace waits for its call, and a dispatch's for its release, at most."""

MOMENT = 0.25
"""Seconds that the end of a process may wait for the collector."""

NAMED = ("action", "externalid", "requestid")

INSTRUMENTORS = (CeleryInstrumentor, HTTPXClientInstrumentor, SQLAlchemyInstrumentor)

_provider: TracerProvider | None = None
_redis: Callable[[], "Redis"]
_w3c = TraceContextTextMapPropagator()
_outcome: ContextVar[str] = ContextVar("outcome", default="")


def start(kept: Callable[[], "Redis"], exporter: SpanExporter | None = None) -> None:
    """Instrument Celery, httpx and SQLAlchemy; spans go to the exporter, or to what the environment names."""
    global _provider, _redis  # noqa: PLW0603 - one a process
    resource = Resource.create({"service.name": "vcc-worker"}).merge(Resource.create())
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    sends = SimpleSpanProcessor(exporter) if exporter else BatchSpanProcessor(OTLPSpanExporter())
    _provider.add_span_processor(Discreet(sends))
    _redis = kept
    # no baggage: it is the producer's, and might hold anything
    propagate.set_global_textmap(_w3c)
    for instrumentor in INSTRUMENTORS:
        # whatever versions it names: it knows no SQLAlchemy 2.1 yet, and the tests see to it that it does its work
        instrumentor().instrument(tracer_provider=_provider, skip_dep_check=True)
    atexit.register(flush)


def stop() -> None:
    """Undo ``start``."""
    for instrumentor in INSTRUMENTORS:
        instrumentor().uninstrument()
    if _provider is not None:
        _provider.shutdown()
    atexit.unregister(flush)


def flush() -> None:
    """Send what is left; a collector that does not answer is not waited for."""
    if _provider is not None:
        thread = threading.Thread(target=_provider.force_flush, daemon=True)
        thread.start()
        thread.join(MOMENT)


class Discreet(SpanProcessor):
    """Passes spans on without exceptions' texts, which may quote a job, and drops what belongs to nothing.

    That is a statement or a request outside of all traces: readers that wait, looks at what is due.
    """

    def __init__(self, inner: SpanProcessor) -> None:
        self._inner = inner

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Tell the inner one."""
        self._inner.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        """Pass on what may be told."""
        if span.parent is not None or span.kind is not SpanKind.CLIENT:
            self._inner.on_end(_untold(span))

    def shutdown(self) -> None:
        """Tell the inner one."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Tell the inner one."""
        return self._inner.force_flush(timeout_millis)


def _untold(span: ReadableSpan) -> ReadableSpan:
    """Give the span with the kinds of its exceptions only; most have none."""
    if not span.events and span.status.description is None:
        return span
    kinds = [
        {name: value for name, value in (event.attributes or {}).items() if name == "exception.type"}
        for event in span.events
    ]
    return ReadableSpan(
        span.name,
        span.get_span_context(),
        span.parent,
        span.resource,
        span.attributes,
        [Event(event.name, kind, event.timestamp) for event, kind in zip(span.events, kinds, strict=True)],
        span.links,
        span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _tracer() -> trace.Tracer:
    return trace.get_tracer("worker", tracer_provider=_provider)


@contextmanager
def recording(door: str, jobs: Sequence[tuple[str, str]]) -> Iterator[None]:
    """Record jobs, each given by its producer's traceparent and its requestid, and keep their traces for the calls.

    Those of one trace are recorded in it; those of many in a trace of their own, which links to each.
    """
    producers = [found for found in map(_named, dict.fromkeys(told for told, _ in jobs)) if found]
    with _within(f"record {door}", SpanKind.CONSUMER, producers) as span:
        span.set_attribute("messaging.system", "vcc")
        span.set_attribute("messaging.batch.message_count", len(jobs))
        here, mine = traceparent(), span.get_span_context().trace_id
        # before the commit: whoever claims them finds it
        _keep(
            {
                KEY + requestid: told if (found := _named(told)) and found.trace_id != mine else here
                for told, requestid in jobs
            }
        )
        yield


@contextmanager
def calling(invocation: int, rows: Sequence[Any], since: float) -> Iterator[None]:
    """Make a call in the trace of the one job that it carries, or in its own, linked to those of all.

    A release goes in its own job's trace, linked to its dispatch's.
    """
    releases = [row for row in rows if row.action == "release"]
    mine = [KEY + row.requestid for row in rows]
    dispatched = [_dispatched(row) for row in releases]
    came, before = _kept(mine), _kept(dispatched)
    _outcome.set("")
    begun = time.time_ns() - int((time.monotonic() - since) * 1e9)
    with _within("call", SpanKind.INTERNAL, came, before, begun) as span:
        span.set_attribute("vcc.invocation", invocation)
        span.set_attribute("messaging.batch.message_count", len(rows))
        if len(rows) == 1:
            span.set_attributes({f"vcc.{name}": getattr(rows[0], name) for name in NAMED})
        here = traceparent()
        _keep({_dispatched(row): here for row in rows if row.action == "dispatch"})
        yield
    # only now that it is settled: until then the rows may come back
    if _outcome.get() == "accepted":
        _drop([*mine, *dispatched])


def came_to(outcome: str) -> None:
    """Set the outcome of the call that this thread makes."""
    _outcome.set(outcome)
    span = trace.get_current_span()
    span.set_attribute("vcc.outcome", outcome)
    if outcome != "accepted":
        span.set_status(StatusCode.ERROR)


@contextmanager
def _within(
    name: str,
    kind: SpanKind,
    came: Sequence[SpanContext],
    before: Sequence[SpanContext] = (),
    begun: int | None = None,
) -> Iterator[trace.Span]:
    """Be in a span: in the one trace of what came, or linked to those of many; linked to what was before."""
    one = len({context.trace_id for context in came}) == 1
    parent = trace.set_span_in_context(trace.NonRecordingSpan(came[0]), Context()) if one else Context()
    links = [Link(context) for context in [*([] if one else came), *before]]
    with _tracer().start_as_current_span(name, parent, kind, links=links, start_time=begun) as span:
        yield span


def _named(told: str) -> SpanContext | None:
    """Read a traceparent; None where it is none."""
    found = trace.get_current_span(_w3c.extract({"traceparent": told}, Context())).get_span_context()
    return found if found.is_valid else None


def _dispatched(row: Any) -> str:
    """Give the key of a dispatch's call: as short as any, however long the externalid is."""
    return DISPATCHED + blake2b(row.externalid.encode(), digest_size=16).hexdigest()


def _keep(traces: dict[str, str]) -> None:
    if traces:
        with suppress(RedisError, SettingsError), _redis().pipeline(transaction=False) as pipeline:
            for key, told in traces.items():
                pipeline.set(key, told, ex=KEPT)
            pipeline.execute()


def _kept(keys: Sequence[str]) -> list[SpanContext]:
    """Give the traces that wait under these keys, each once; none where they can't be had."""
    found: Any = []
    with suppress(RedisError, SettingsError):
        found = _redis().mget(keys) if keys else []
    named = (_named(told.decode(errors="replace")) for told in dict.fromkeys(found) if told)
    return [context for context in named if context]


def _drop(keys: Sequence[str]) -> None:
    with suppress(RedisError, SettingsError):
        _redis().unlink(*keys)
