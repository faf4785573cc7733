"""One trace from a producer to the settling of its call, whichever way the job comes; and nobody's words in it."""

import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

pytest.importorskip("opentelemetry.instrumentation.celery")

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.factories import Store
from tests.waiting import until
from worker import app as process
from worker import tasks, telemetry, tracing
from worker.client import STREAM, Client
from worker.delivery.deliver import Bench
from worker.delivery.straight import Senders
from worker.intake.reader import Onward
from worker.simulator.run import Background

WORD = "Confidential subject"
WORDS = {"linkeddata": [{"type": "name", "value": WORD}], "extra": {"said": WORD}}


class Traced:
    """A traced process and its servers."""

    def __init__(self, exporter: InMemorySpanExporter, redis_url: str) -> None:
        self.exporter, self.store = exporter, Store(process.engine())
        self.client = Client(redis_url)

    def within(self, name: str, work: Callable[[], Any]) -> int:
        """Work within a producer's span, and give its trace."""
        tracer = trace.get_tracer("producer", tracer_provider=telemetry._provider)
        with tracer.start_as_current_span(name) as span:
            work()
        return span.get_span_context().trace_id

    def spans(self, trace_id: int | None = None) -> list[ReadableSpan]:
        """Give the spans that were told, or those of one trace."""
        found = self.exporter.get_finished_spans()
        return [span for span in found if trace_id in (None, _context(span).trace_id)]

    def span(self, name: str, **attributes: Any) -> ReadableSpan:
        """Give the one span of this name with these attributes."""
        [found] = [
            span
            for span in self.spans()
            if span.name == name and attributes.items() <= dict(span.attributes or {}).items()
        ]
        return found

    def read_stream(self) -> None:
        """Take in what stands in the stream, and send it straight on."""
        bench = Bench(process.engine(), process.api(), process.config(), lambda: None)
        senders = Senders(bench, lambda: True, "send")
        reader = tasks.reader("stream", Onward(senders.terms, senders.offer))
        until(lambda: reader.run(lambda: True, waits=False))
        senders.close()


def _context(span: ReadableSpan) -> trace.SpanContext:
    context = span.get_span_context()
    assert context is not None
    return context


@pytest.fixture
def traced(
    database_url: str, redis_url: str, simulator: Background, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Traced]:
    """Trace into memory."""
    for name, value in {
        "DATABASE_URL": database_url, "REDIS_URL": redis_url, "VCC_API_URL": simulator.url,
        "VCC_AUTH_URL": simulator.url, "VCC_CLIENT_ID": "simulator", "VCC_CLIENT_SECRET": "simulator",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    process.forget_resources()
    exporter = InMemorySpanExporter()
    assert tracing.start(process.trace_redis, exporter)
    try:
        traced = Traced(exporter, redis_url)
        yield traced
        traced.client.close()
    finally:
        tracing.stop()
        process.engine().dispose()
        process.api().close()
        process.forget_resources()


def assert_untold(spans: list[ReadableSpan]) -> None:
    """Find no word of a customer's, and no secret, in anything that was told."""
    told = "".join(span.to_json() for span in spans)
    for word in (WORD, "simulator:", "Bearer"):
        assert word not in told


def test_celery_door(traced: Traced) -> None:
    """Task, record, call, HTTP and settling are in the producer's trace, each below the one before."""
    job = {"externalid": "e", "route": "R", "requestid": "13141f79", **WORDS}
    order = traced.within("order", lambda: tasks.dispatch.apply(kwargs=job).get())
    tasks.deliver_all()
    assert traced.store.counts() == {"dispatched": 1}
    chain = [traced.span("record celery"), traced.span("call", **{"vcc.outcome": "accepted"})]
    task = traced.span("run/vcc.dispatch")
    assert [span.parent.span_id for span in chain if span.parent] == [
        _context(span).span_id for span in (task, chain[0])
    ]
    assert {_context(span).trace_id for span in (task, *chain)} == {order}
    below: dict[str, list[str]] = {}
    names = {_context(span).span_id: span.name for span in traced.spans(order)}
    for span in traced.spans(order):
        parent = names[span.parent.span_id] if span.parent else ""
        below.setdefault(parent, []).append(span.name.partition(" ")[0])
    assert below["order"] == ["run/vcc.dispatch"]
    assert "insert" in below["record celery"]
    assert {"POST", "connect"} <= set(below["call"])
    assert below["call"].index("POST") < len(below["call"]) - 1  # it is settled after that
    call = chain[1].attributes or {}
    assert (call["vcc.externalid"], call["vcc.requestid"]) == ("e", "13141f79")
    assert_untold(traced.spans())


def test_stream_door(traced: Traced) -> None:
    """What goes through the stream brings its producer's trace along, straight on to its call."""
    order = traced.within("order", lambda: traced.client.dispatch("e", "R", **WORDS))  # type: ignore[arg-type]
    traced.read_stream()
    assert traced.store.counts() == {"dispatched": 1}
    names = {span.name for span in traced.spans(order)}
    assert {"order", "record stream", "call", "POST"} <= names
    assert_untold(traced.spans())


def test_call_for_many(traced: Traced) -> None:
    """A call that carries jobs of several traces has its own, linked to each; and so has their record."""
    orders = {traced.within("order", lambda n=n: traced.client.dispatch(f"e{n}", "R")) for n in range(3)}  # type: ignore[misc]
    traced.read_stream()
    record, call = traced.span("record stream"), traced.span("call")
    for span in (record, call):
        assert span.parent is None
        assert {link.context.trace_id for link in span.links} == orders
        assert _context(span).trace_id not in orders
        assert (span.attributes or {})["messaging.batch.message_count"] == 3
    assert "vcc.externalid" not in (call.attributes or {})


def test_release_is_linked_to_its_dispatch(traced: Traced) -> None:
    """A release goes in its own producer's trace, with a link to the call of its dispatch."""
    traced.within("order", lambda: traced.client.dispatch("e", "R"))
    traced.read_stream()
    farewell = traced.within("farewell", lambda: traced.client.release("e"))
    traced.read_stream()
    assert traced.store.counts() == {"released": 1}
    first, second = (traced.span("call", **{"vcc.action": action}) for action in ("dispatch", "release"))
    assert _context(second).trace_id == farewell
    assert [link.context.span_id for link in second.links] == [_context(first).span_id]


def waiting(pattern: str) -> list[bytes]:
    """Give the keys under which traces wait."""
    return sorted(process.redis_client().keys(f"vcc:{pattern}:*"))


def test_nothing_waits_for_what_is_over(traced: Traced) -> None:
    """What VCC has accepted leaves nothing in Redis but, until its release, the name of its call's trace."""
    name = "e" * 1_000
    traced.client.dispatch(name, "R")
    traced.read_stream()
    assert traced.store.counts() == {"dispatched": 1}
    assert waiting("trace") == []
    [key] = waiting("dispatch-trace")
    assert len(key) < 60
    traced.client.release(name)
    traced.read_stream()
    assert traced.store.counts() == {"released": 1}
    assert waiting("trace") == waiting("dispatch-trace") == []


def test_another_call_is_in_the_trace_too(traced: Traced, simulator: Background) -> None:
    """A call that comes to nothing leaves the trace's name for the next one."""
    order = traced.within(
        "order", lambda: tasks.dispatch.apply(kwargs={"externalid": "e", "route": "R"}).get()
    )
    simulator.faults(status={"status": 503, "calls": 1})
    tasks.deliver_all()
    traced.store.run("update interactions set due_at = now()")
    traced.store.run("update gate set closed_until = now()")
    tasks.deliver_all()
    assert traced.store.counts() == {"dispatched": 1}
    calls = [span for span in traced.spans(order) if span.name == "call"]
    assert [(span.attributes or {})["vcc.outcome"] for span in calls] == ["unknown", "accepted"]
    assert waiting("trace") == []


def test_another_process_sends(traced: Traced) -> None:
    """What was recorded is called in its trace by whoever sends it; without a Redis it has two."""
    order = traced.within(
        "order", lambda: tasks.dispatch.apply(kwargs={"externalid": "a", "route": "R"}).get()
    )
    thread = threading.Thread(target=tasks.deliver_all)
    thread.start()
    thread.join()
    assert _context(traced.span("call")).trace_id == order
    traced.within("order", lambda: tasks.dispatch.apply(kwargs={"externalid": "b", "route": "R"}).get())
    process.redis_client().flushdb()
    tasks.deliver_all()
    assert traced.store.counts() == {"dispatched": 2}
    assert traced.span("call", **{"vcc.externalid": "b"}).parent is None


@pytest.mark.parametrize(
    "given", ["", "00-zz-1-01", WORD * 9, "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "\xff"]
)
def test_a_trace_that_is_none(traced: Traced, given: str) -> None:
    """What stands in a trace's place and is none counts for nothing; the job does."""
    job = '{"externalid": "e", "route": "R"}'
    process.redis_client().xadd(STREAM, {"job": job, "traceparent": given.encode("latin-1")})
    traced.read_stream()
    assert traced.store.counts() == {"dispatched": 1}
    record, call = traced.span("record stream"), traced.span("call")
    assert (record.parent, record.links) == (None, ())
    assert _context(call).trace_id == _context(record).trace_id
    assert_untold(traced.spans())


def test_error_without_its_text(traced: Traced, simulator: Background) -> None:
    """A call or a statement that fails is told by its kind, not by what was said."""

    def fail() -> None:
        with process.engine().begin() as conn:
            conn.exec_driver_sql("select %(word)s::integer", {"word": WORD})

    with pytest.raises(Exception, match="invalid input"):
        traced.within("order", fail)
    simulator.faults(poison=["e"])
    traced.within(
        "order", lambda: tasks.dispatch.apply(kwargs={"externalid": "e", "route": "R", **WORDS}).get()
    )
    tasks.deliver_all()
    call = traced.span("call", **{"vcc.outcome": "refused"})
    assert call.status.status_code is trace.StatusCode.ERROR
    failed = [span for span in traced.spans() if not span.status.is_ok]
    assert [span.status.description for span in failed] == [None] * len(failed)
    assert {event.name for span in failed for event in span.events} == {"exception"}
    assert_untold(traced.spans())


def test_what_belongs_to_nothing(traced: Traced) -> None:
    """A look at what is due, outside of all traces, is told nobody."""
    tasks.deliver_all()
    assert traced.spans() == []


def test_packages_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for, but not installed, it does not keep the worker from its work."""
    monkeypatch.setenv(tracing.WANTED[0], "http://127.0.0.1:1")
    monkeypatch.delitem(sys.modules, "worker.telemetry")
    monkeypatch.delattr("worker.telemetry")
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.celery", None)
    assert tracing.start(process.trace_redis) is False
    assert tracing.recording("x", []) is tracing.calling(1, [], 0.0)


def test_nothing_where_nobody_asks(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the collector's address nothing is traced, and a job has no further field."""
    for name in tracing.WANTED:
        monkeypatch.delenv(name, raising=False)
    assert tracing.start(process.trace_redis) is None
    with Client(redis_url) as client, redis.Redis.from_url(redis_url) as server:
        client.dispatch("e", "R")
        [(_, fields)] = server.xrange(STREAM)
    assert fields.keys() == {b"job"}
    assert tracing.recording("x", []) is tracing.calling(1, [], 0.0)
