"""Flower, as operations use it."""

import socket
from typing import Any

import httpx

from tests.acceptance.stand import Stand
from tests.waiting import until

WORD = "Confidential subject"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_flower_sees_workers_and_tasks_but_no_words(stand: Stand) -> None:
    """Workers and tasks are seen; nothing of a job is, on any page, nor in what ``inspect`` answers."""
    port = _free_port()
    stand.settings["FLOWER_UNAUTHENTICATED_API"] = "true"
    stand.worker("--pool", "threads")
    stand.start("flower", f"--port={port}", "--address=127.0.0.1")

    def answers(path: str) -> Any:
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}{path}", timeout=5)
        except httpx.HTTPError:
            return None
        return answer if answer.status_code == 200 else None

    until(lambda: answers("/api/workers?refresh=1") and answers("/api/workers").json(), seconds=30)
    producer = stand.producer()
    linked = [{"type": "name", "value": WORD}]
    # as a service does that takes no care: the words are in the message's headers too
    for i in range(5):
        producer.send_task(
            "vcc.dispatch", kwargs={"externalid": f"{WORD} {i}", "route": "R", "linkeddata": linked}
        )
    stand.until(lambda s: s["states"]["dispatched"] == 5)
    tasks = until(lambda: _succeeded(answers("/api/tasks")), seconds=20)
    assert {task["name"] for task in tasks.values()} >= {"vcc.dispatch"}
    pages = [answers("/tasks"), answers("/workers"), answers("/api/tasks"), answers("/metrics")]
    pages += [answers(f"/task/{uuid}") for uuid in tasks]
    assert all(pages)
    assert not any(WORD in page.text for page in pages)
    producer.conf.result_backend = None
    with producer.connection_for_read() as connection:  # those in Celery's pools may be older than this Redis
        shown = producer.control.inspect(timeout=2, connection=connection)
        assert WORD not in str([shown.active(), shown.reserved(), shown.scheduled(), shown.stats()])


def _succeeded(answer: Any) -> Any:
    tasks = answer.json() if answer else {}
    done = [t for t in tasks.values() if t["name"] == "vcc.dispatch" and t["state"] == "SUCCESS"]
    return tasks if len(done) == 5 else None
