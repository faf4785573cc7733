"""Prometheus in earnest: it scrapes the page beside real workers, and each alert fires when its cause happens."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psycopg
import pytest
import redis

from tests.acceptance.stand import ROOT, Stand
from tests.factories import Store, dispatch, opened
from tests.waiting import until
from worker.client import FIELD, STREAM, Client
from worker.consumption import KEY
from worker.embedded import Server
from worker.server import free_port
from worker.store import gate, imports

OPS = ROOT / "docs" / "ops"
ALERTS = set(re.findall(r"- alert: (\w+)", (OPS / "alerts.yml").read_text()))
SHORTEST = 12
"""Seconds: a worker tells what it has consumed every five, and a door is looked at at once."""
ONE = 'vcc_worker_silence_seconds{queue="upkeep"} > 300'
"""What tells one worker's silence: that is made in Redis, since of two the one may well miss a few ticks in a row."""

pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Debian's prometheus")


def hastened(rules: str) -> str:
    """Let pass in seconds what takes minutes: ages are a 150th but ``SHORTEST``, the rest is as short as can be."""

    def sooner(found: re.Match[str]) -> str:
        return f"{found[1]} {max(int(found[2]) // 150, SHORTEST)}"

    lines = (
        re.sub(r"([<>]) (\d\d+)", sooner, line) if "_seconds" in line and not line.endswith(ONE) else line
        for line in rules.splitlines()
    )
    text = "\n".join(lines)
    for slow, fast in {r"for: \w+": "for: 500ms", r"\[\d+m:1m\]": "[3s:500ms]", r"\[\d+m\]": "[3s]"}.items():
        text = re.sub(slow, fast, text)
    return text


@dataclass(frozen=True, slots=True)
class Watched:
    """A stand with a page, and Prometheus beside it."""

    stand: Stand
    store: Store
    prometheus: str
    page: "subprocess.Popen[bytes]"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Ask Prometheus."""
        try:
            answer = httpx.get(
                f"{self.prometheus}/api/v1/query", params={"query": expression}, trust_env=False, timeout=60
            )
        except httpx.TransportError:
            return []  # it is not there yet
        return list(answer.json()["data"]["result"]) if answer.is_success else []

    def fired(self) -> set[str]:
        """Name the alerts that have fired by now."""
        found = self.query('max_over_time(ALERTS{alertstate="firing"}[1h])')
        return {one["metric"]["alertname"] for one in found}

    def until_fired(self, *alerts: str) -> None:
        """Wait until they have."""
        assert set(alerts) <= ALERTS
        until(lambda: set(alerts) <= self.fired(), seconds=60)

    def send(self, *externalids: str, **fields: Any) -> None:
        """Enqueue dispatches."""
        with Client(self.stand.redis_url) as vcc:
            vcc.send([{"externalid": one, "route": "R", **fields} for one in externalids])

    def change_valve(self, change: Any, *given: str) -> None:
        """Pause, or resume."""
        with self.store.engine.begin() as conn:
            change(conn, *given)


def _start(stand: Stand, name: str, *command: str) -> "subprocess.Popen[bytes]":
    with (stand.folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=stand.env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    stand.processes.append(process)
    return process


@contextmanager
def watched(stand: Stand) -> Iterator[Watched]:
    """Start the page, and Prometheus with our own configuration, for which only time passes faster."""
    token, page, own = secrets.token_urlsafe(), free_port(), free_port()
    stand.settings["VCC_METRICS_TOKEN"] = token
    config = (
        (OPS / "prometheus.yml").read_text().replace("15s", "500ms").replace("web:8899", f"127.0.0.1:{page}")
    )
    (stand.folder / "token").write_text(token)
    (stand.folder / "prometheus.yml").write_text(config.replace("/tmp/token", str(stand.folder / "token")))  # noqa: S108
    (stand.folder / "alerts.yml").write_text(hastened((OPS / "alerts.yml").read_text()))
    served = _start(stand, "page", sys.executable, "-m", "worker.ops.cli", "web", "--port", str(page))
    with opened(stand.database_url) as engine, redis.Redis.from_url(stand.redis_url) as connection:
        until(lambda: b"upkeep" in b"".join(connection.hkeys(KEY)), seconds=60)
        url = f"http://127.0.0.1:{own}"
        until(lambda: _answers(f"http://127.0.0.1:{page}/readyz"), seconds=60)
        _start(
            stand, "prometheus", "prometheus", f"--config.file={stand.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={stand.folder / 'tsdb'}", f"--web.listen-address=127.0.0.1:{own}",
        )  # fmt: skip
        yield Watched(stand, Store(engine), url, served)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=60).is_success
    except httpx.TransportError:
        return False


def test_each_alert_fires_for_its_cause_and_none_without(
    stand: Stand, postgres_server: Server, redis_server: Server
) -> None:
    """With traffic nothing fires; then one cause after the other is made to happen, until all have fired."""
    workers = [stand.worker("--pool", "threads") for _ in range(2)]
    stand.beat()
    with watched(stand) as house:
        _work(house)
        assert house.query("vector(1)")
        assert house.query("ALERTS") == []
        _spoil_jobs(house)
        with psycopg.connect(stand.database_url) as lock:
            lock.execute("lock table rejections in access exclusive mode")
            _close_the_valve(house)
            _stop_workers(house, workers)
            house.until_fired("VccCountsStale")
        redis_server.kill()
        postgres_server.kill()
        parts = 'ALERTS{alertname="VccServerDown", alertstate="firing"}'
        until(
            lambda: {one["metric"]["part"] for one in house.query(parts)} == {"database", "redis"}, seconds=30
        )
        stand.kill(house.page)
        house.until_fired("VccPageDown")
        until(lambda: house.fired() == ALERTS)


def _work(house: Watched) -> None:
    """Have dispatches and releases go through, until Prometheus has seen it for a while."""
    names = [f"e{number}" for number in range(40)]
    house.send(*names)
    house.stand.until(lambda stats: stats["states"]["dispatched"] == 40)
    with Client(house.stand.redis_url) as vcc:
        vcc.release_many(names[:20])
    house.stand.until(lambda stats: stats["states"]["released"] == 20)
    seen = 'count_over_time(vcc_interactions{state="released", lane="live"}[1m])'
    until(
        lambda: any(int(one["value"][1]) >= 16 for one in house.query(f"{seen} and on () vcc_up == 1")),
        seconds=60,
    )


def _spoil_jobs(house: Watched) -> None:
    """Jobs that can't be recorded, that VCC refuses or forbids, that nobody releases; an import that is killed."""
    refused = [f"refused-{number}" for number in range(12)]
    house.stand.simulator.faults(poison=refused, forbidden_providers=["Forbidden"])
    house.send(*refused)
    house.send("forbidden", provider="Forbidden")
    with redis.Redis.from_url(house.stand.redis_url) as connection:
        connection.xadd(STREAM, {FIELD: b"no job"})
    with house.store.engine.begin() as conn:
        imports.begin(conn, "cli:eve", "backlog.mbox", "R")
    house.store.run("update imports set updated_at = now() - interval '1 minute'")
    house.store.run(
        "update interactions set dispatched_at = now() - interval '2 days' where externalid = 'e30'"
    )
    house.until_fired("VccRejections", "VccFailures", "VccHeld", "VccLeaks", "VccImportSilent")
    house.stand.simulator.clear_faults()
    # so that the rest is not held up: time passes
    house.store.run("update providers set closed_until = now()")


def _close_the_valve(house: Watched) -> None:
    """Answer as an API does that is away, misplaced, or does not like us; and pause."""
    for alert, fault in {
        "VccUnauthorised": {"unauthorised": {"at": "both"}},
        "VccMisconfigured": {"not_found": {}},
        "VccUnreachable": {"html503": {}},
        "VccThrottled": {"throttle": {"retry_after": 30}},
    }.items():
        house.stand.simulator.faults(**fault)
        house.send(alert)
        house.until_fired(alert)
        house.stand.simulator.clear_faults()
        house.store.run("update gate set closed_until = now(), next_slot = null, rate = null")
        until(lambda: house.store.one("select failures = 0 from gate"), seconds=30)
    house.change_valve(gate.pause, "lunch")
    house.until_fired("VccPaused")
    house.change_valve(gate.resume)


def _stop_workers(house: Watched, workers: "list[subprocess.Popen[bytes]]") -> None:
    """Freeze one worker, then the other, and let things wait for them for long."""
    with redis.Redis.from_url(house.stand.redis_url) as connection:
        os.killpg(workers[0].pid, signal.SIGSTOP)
        connection.hset(KEY, "upkeep w0@test", connection.time()[0] - 400)
        house.until_fired("VccWorkerSilent")
        os.killpg(workers[1].pid, signal.SIGSTOP)
        connection.lpush("intake", *["a message"] * 1100)
        house.send("in the stream")
    house.store.record(dispatch("live"), dispatch("backlog", lane="backlog"))
    old = (
        "update interactions set due_at = now() - interval '5 hours', updated_at = now() - interval '5 hours'"
    )
    house.store.run(f"{old} where state = 'pending' and due_at <= now()")
    house.until_fired(
        "VccNoWorker", "VccNoTick", "VccLiveLate", "VccBacklogLate", "VccNotTakenIn", "VccQueueLong"
    )
