"""Everything through PgBouncer in transaction mode, with few connections behind it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.stand import ROOT, Stand, standing
from tests.installed import documented, pgbouncer
from worker.client import Client
from worker.simulator.run import Background


@dataclass
class Pooled(Stand):
    """A stand whose processes reach the database through a pooler.

    Attributes:
        pooler_url: by which they do; ``database_url`` is the database itself.
    """

    pooler_url: str = ""

    @property
    def env(self) -> dict[str, str]:
        """What every process of the stand is told."""
        return {**super().env, "DATABASE_URL": self.pooler_url}

    def run(self, *command: object) -> Any:
        """Run a command as an operator does; what it printed for machines."""
        done = subprocess.run(
            [sys.executable, "-m", "worker.ops.cli", *map(str, command), "--json"],
            env=self.env, cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return json.loads(done.stdout or "{}")


@pytest.fixture
def stand(database_url: str, redis_url: str, simulator: Background, tmp_path: Path) -> Iterator[Pooled]:
    """Give a stand behind a pooler that has six connections for all of it."""
    with (
        pgbouncer(database_url) as pooler,
        standing(Pooled(database_url, redis_url, simulator, tmp_path, pooler_url=pooler.url)) as ready,
    ):
        yield ready


def test_killed_in_the_middle(stand: Pooled) -> None:
    """Jobs come by every door while workers are killed: each is dispatched, none twice, and then released."""
    stand.settings["VCC_TIMEOUT"] = "1s"
    stand.beat()
    workers = [stand.worker("--pool", "threads", "--concurrency", "4") for _ in range(2)]
    backlog = stand.folder / "backlog.jsonl"
    backlog.write_text("".join(f'{{"externalid": "i{n}", "route": "R"}}\n' for n in range(500)))
    rounds, each = 3, 200
    with Client(stand.redis_url) as client, psycopg.connect(stand.database_url, autocommit=True) as service:
        for turn in range(rounds):
            goal = stand.stats()["invocations"]["calls"] + 1
            for n in range(turn * each, (turn + 1) * each):
                client.dispatch(f"s{n}", "R")
                service.execute(
                    "insert into inbox (job) values (jsonb_build_object('externalid', %s::text, 'route', 'R'))",
                    [f"t{n}"],
                )
            if turn == 0:
                assert stand.run("import", backlog)["new"] == 500
            stand.until(lambda s, goal=goal: s["invocations"]["calls"] >= goal)
            stand.kill(workers[turn % 2])
            workers[turn % 2] = stand.worker("--pool", "threads", "--concurrency", "4")
        # only now: what Celery had in hand when a worker died comes back after 150 s
        many = [{"externalid": f"c{n}", "route": "R"} for n in range(each)]
        stand.producer().send_task("vcc.dispatch_many", kwargs={"jobs": many}, queue="intake")
        sent = 2 * rounds * each + each + 500
        stand.until(lambda s: s["states"]["dispatched"] == sent)
        client.release_many([f"s{n}" for n in range(rounds * each)])
    stand.until(lambda s: s["states"]["released"] == rounds * each)
    book = stand.simulator.book()
    assert (book["dispatched"], book["redispatched"]) == (sent, 0)
    assert stand.stats()["rejections"] == 0


def test_retried_by_hand(stand: Pooled) -> None:
    """What the API refused goes out when an operator retries it."""
    stand.simulator.faults(refuse_routes=["R"])
    stand.worker("--pool", "threads")
    stand.beat()
    stand.run("dispatch", "e", "--route", "R")
    stand.until(lambda s: s["states"]["failed"] == 1)
    stand.simulator.clear_faults()
    stand.run("retry", "e")
    stand.run("resume")
    stand.until(lambda s: s["states"]["dispatched"] == 1)


def test_check(stand: Pooled) -> None:
    """``vcc check`` sees the pooler, and whether the role has the settings that the documentation gives it."""
    [before] = [found for found in stand.run("check") if found["name"] == "database"]
    assert before["detail"].endswith(", through a pooler")
    assert "settings" in before["remedy"]
    with psycopg.connect(stand.database_url, autocommit=True) as admin:
        [statements] = documented("Through a pooler", "sql")
        try:
            admin.execute(statements.replace("worker_1", "current_user"))
            admin.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid()"
            )
            [after] = [found for found in stand.run("check") if found["name"] == "database"]
        finally:
            admin.execute("alter role current_user reset all")
    assert (after["ok"], after["remedy"]) == (True, "")
