"""Flower, as operations use it: behind a password, in front of a real worker."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from flower.urls import handlers

from tests.acceptance.stand import ROOT, Stand
from tests.waiting import until
from worker.client import Client
from worker.server import free_port

WORD, ADDRESS, LOGIN, SECRET = "Confidential subject", "jane@doe.example", "letmein-q7x", "s3cret-q7x"
JOBS = 50
"""By each door."""

TABLE = (
    "/tasks/datatable?draw=1&start=0&length=200&order[0][column]=0&order[0][dir]=asc&columns[0][data]=name"
)

CASE = "case-q7x"
LINKED = [{"type": "name", "value": WORD}, {"type": "clid", "value": ADDRESS}]


def paths() -> list[str]:
    """Give a path for every handler that Flower has, so that a new one is tried too."""
    patterns = [one[0] if isinstance(one, tuple) else one.regex.pattern for one in handlers]
    return ["/nowhere" if p == ".*" else re.sub(r"\(.[+*]\)|\?|\$$", "", p) for p in patterns]


@pytest.fixture
def flower(stand: Stand, tmp_path: Path) -> Iterator[httpx.Client]:
    """Run a worker that leaves one queue alone, and ``vcc flower`` beside it; give a client that knows the password."""
    port = free_port()
    stand.settings |= {"FLOWER_BASIC_AUTH": f"ops:{LOGIN}", "VCC_METRICS_TOKEN": SECRET}
    stand.worker("--pool", "threads", "-Q", "intake,deliver")
    command = [sys.executable, "-m", "worker.ops.cli", "flower", f"--port={port}", "--address=0.0.0.0"]
    with (tmp_path / "flower.log").open("wb") as log:
        stand.processes.append(
            subprocess.Popen(command, cwd=ROOT, env=stand.env, stdout=log, stderr=log, start_new_session=True)
        )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
        until(lambda: answers(client, "/healthcheck"), seconds=30)
        client.auth = ("ops", LOGIN)
        yield client


def answers(client: httpx.Client, path: str) -> httpx.Response | None:
    """Give a page, None while there is none."""
    try:
        answer = client.get(path)
    except httpx.TransportError:
        return None
    return answer if answer.is_success else None


def test_flower_sees_all_and_tells_no_words(stand: Stand, flower: httpx.Client) -> None:
    """Tasks, workers and lengths of queues are there for who has the password, no word of a customer's or secret is."""
    until(lambda: answers(flower, "/api/workers?refresh=1") and flower.get("/api/workers").json(), seconds=30)
    producer = stand.producer()
    # as a service does that takes no care: the words are in the message's headers too
    for i in range(JOBS):
        job = {"externalid": f"{CASE} {i}", "route": "R", "linkeddata": LINKED}
        producer.send_task("vcc.dispatch", kwargs=job, argsrepr=WORD)
    with Client(stand.redis_url) as client:
        client.dispatch_many(
            {"externalid": f"stream {i}", "route": "R", "linkeddata": LINKED} for i in range(JOBS)
        )
    for _ in range(3):
        producer.send_task("vcc.sweep", queue="upkeep", expires=9999)
    stand.until(lambda s: s["states"]["dispatched"] == 2 * JOBS)
    tasks = until(lambda: _succeeded(flower), seconds=20)
    assert {task["name"] for task in tasks.values()} >= {"vcc.dispatch"}
    (worker,) = flower.get("/api/workers").json()
    until(lambda: flower.get("/api/workers?status=true").json() == {worker: True})
    until(lambda: _lengths(flower) == {"intake": 0, "deliver": 0, "upkeep": 3})
    shown = [
        "/",
        "/workers",
        "/workers?json=1",
        f"/worker/{worker}",
        f"/api/workers?refresh=1&workername={worker}",
    ]
    shown += ["/tasks", TABLE, "/broker", "/api/tasks", "/api/task/types"]
    shown += ["/metrics", "/api/queues/length", *[f"/task/{uuid}" for uuid in tasks]]
    pages = {path: flower.get(path) for path in shown}
    assert {path: page.status_code for path, page in pages.items() if not page.is_success} == {}
    assert "(hidden)" in pages["/api/tasks"].text
    assert "upkeep" in pages["/broker"].text
    passwords = [str(urlsplit(url).password) for url in (stand.redis_url, stand.database_url)]
    told = [page.text for page in pages.values()]
    assert not any(CASE in text for text in told)  # as everything else that a message holds
    told += [flower.get(f"/api/task/info/{next(iter(tasks))}").raise_for_status().text, stand.logs()]
    for word in (WORD, ADDRESS, LOGIN, SECRET, *passwords):
        assert not any(word in text for text in told), word
    _ask_without(flower)


def _lengths(flower: httpx.Client) -> dict[str, int]:
    found = flower.get("/api/queues/length").json()["active_queues"]
    return {one["name"]: one["messages"] for one in found}


def _ask_without(flower: httpx.Client) -> None:
    """Whatever the path and the method: nobody comes in, and who may, changes nothing."""
    strangers = (None, ("ops", "wrong"), ("", ""), ("ops", f"{LOGIN}\u00e9"))
    with httpx.Client(base_url=flower.base_url, trust_env=False, timeout=60) as client:
        for path in paths():
            expected = {401} if path != "/healthcheck" else {200, 204, 403, 405}
            asked = [("GET", auth) for auth in strangers]
            asked += [(method, None) for method in ("POST", "OPTIONS", "HEAD", "PUT")]
            for method, auth in asked:
                answer = client.request(method, path, auth=auth)
                assert answer.status_code in expected, (method, path, auth)
    assert flower.post("/api/worker/shutdown/x").status_code == 403
    assert flower.post("/api/task/send-task/vcc.dispatch", json={}).status_code == 403


def _succeeded(flower: httpx.Client) -> Any:
    tasks = flower.get("/api/tasks").json()
    done = [t for t in tasks.values() if t["name"] == "vcc.dispatch" and t["state"] == "SUCCESS"]
    return tasks if len(done) == JOBS else None
