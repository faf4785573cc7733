"""A worker's spans, as a collector is told them over HTTP."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import redis

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.acceptance.stand import Stand
from tests.waiting import until

WORD = "Confidential subject"
WORDS = {"linkeddata": [{"type": "name", "value": WORD}], "extra": {"said": WORD}}
BY_CELERY, BY_STREAM = "a" * 32, "b" * 32


class Collector(ThreadingHTTPServer):
    """Takes spans, as an OpenTelemetry collector does."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Take)
        self.bodies: list[bytes] = []

    def spans(self, trace_id: str) -> set[str]:
        """Give the names of a trace's spans."""
        return {span.name for span in self._spans() if span.trace_id.hex() == trace_id}

    def _spans(self) -> Iterator[Span]:
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    yield from scope.spans


class _Take(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Run a collector."""
    with Collector() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_a_worker_tells_its_spans(stand: Stand, collector: Collector, pool: str) -> None:
    """Both doors' jobs are told in their producers' traces up to the end, and no word of a customer's is."""
    stand.settings |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_address[1]}",
        "OTEL_BSP_SCHEDULE_DELAY": "500",  # milliseconds
    }
    worker = stand.worker("--pool", pool, "--concurrency", "2")
    with stand.producer() as producer:
        producer.send_task(
            "vcc.dispatch",
            kwargs={"externalid": "c", "route": "R", **WORDS},
            headers={"traceparent": f"00-{BY_CELERY}-{'1' * 16}-01", "baggage": f"subject={WORD}"},
        )
        _add(stand, '{"externalid": "s", "route": "R", "extra": {"said": "Confidential subject"}}')
        stand.until(lambda s: s["states"]["dispatched"] == 2)
        producer.send_task("vcc.dispatch", args=[{WORD: 1}] * 30, kwargs={})
        stand.until(lambda s: s["rejections"] == 1)
        until(lambda: " ready." in stand.logs(), seconds=30)
    until(lambda: {"run/vcc.dispatch", "record celery", "call", "POST"} <= collector.spans(BY_CELERY))
    until(lambda: {"record stream", "call", "POST"} <= collector.spans(BY_STREAM))
    worker.terminate()
    assert worker.wait(120) == 0
    assert WORD.encode() not in b"".join(collector.bodies)
    assert '"traces on"' in stand.logs()
    assert f'"trace_id":"{BY_CELERY}"' in stand.logs()
    assert WORD not in stand.logs()


def test_no_collector(stand: Stand) -> None:
    """A collector that is not there keeps nobody from work, nor from ending."""
    stand.settings |= {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    worker = stand.worker("--pool", "threads", "--concurrency", "2")
    _add(stand, '{"externalid": "s", "route": "R"}')
    stand.until(lambda s: s["states"]["dispatched"] == 1)
    until(lambda: " ready." in stand.logs(), seconds=30)
    worker.terminate()
    assert worker.wait(120) == 0


def _add(stand: Stand, job: str) -> None:

    with redis.Redis.from_url(stand.redis_url) as server:
        server.xadd("vcc:jobs", {"job": job, "traceparent": f"00-{BY_STREAM}-{'2' * 16}-01"})
