"""The roles of ``docs/roles.sql``: each can do all that it is for, and nothing else."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import errors
from sqlalchemy import Connection

from tests.acceptance.stand import ROOT, Stand, standing
from tests.factories import opened
from worker import embedded
from worker.client import Client
from worker.domain.lifecycle import State
from worker.simulator.run import Background
from worker.store import audit, browse, census, imports, migrate, queries, retry, tallies
from worker.store.browse import Filter
from worker.store.retry import Which
from worker.store.tables import metadata

ROLES = (ROOT / "docs" / "roles.sql").read_text()
WORD = "Confidential subject"
USERS = ("worker", "producer", "viewer")


def as_user(url: str, name: str) -> str:
    """Make the URL by which another user comes in."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{name}:change-me@{parts.hostname}:{parts.port}").geturl()


@pytest.fixture
def owner(database_url: str, postgres_server: embedded.Server) -> Iterator[str]:
    """Give a database that its owner, who is no superuser, has migrated, and the roles with a user each."""
    name = "vcc_of_owner"
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute(f"drop database if exists {name} with (force)")
        admin.execute("create role owner login createrole password 'change-me'")
        admin.execute(f"create database {name} owner owner")
        url = as_user(database_url, "owner").replace(urlsplit(database_url).path, f"/{name}")
        try:
            migrate.upgrade(url)
            with psycopg.connect(url, autocommit=True) as conn:
                for _ in range(2):  # again changes nothing
                    conn.execute(ROLES)
                for user in USERS:
                    conn.execute(f"create role a_{user} login password 'change-me' in role vcc_{user}")
            yield url
        finally:
            admin.execute(f"drop database {name} with (force)")
            for role in (*(f"a_{user}" for user in USERS), *(f"vcc_{user}" for user in USERS), "owner"):
                admin.execute(f"drop role if exists {role}")


def run(stand: Stand, *command: str, code: int = 0, **env: str) -> str:
    """Run a command as an operator does."""
    done = subprocess.run(
        [sys.executable, "-m", "worker.ops.cli", *command],
        env={**stand.env, **env}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr + done.stdout
    return done.stdout


def page(conn: Connection, *, words: bool) -> list[Any]:
    """Ask what the page shows."""
    return [
        *(browse.page(conn, Filter(state=state)).rows for state in (None, *State)),
        browse.page(conn, Filter(externalid="seen", error="x", created_after=datetime.now(UTC))),
        browse.one(conn, 1, words=words),
        browse.rejection(conn, 1, words=words),
        *(
            ask(conn)
            for ask in (browse.failures, browse.due_by_lane, browse.running_imports, browse.rejected)
        ),
        tallies.series(conn, 3_600, 60),
        tallies.totals(conn),
        census.take(conn, 1),
        audit.newest(conn),
        retry.count(conn, Which()),
    ]


def refused(url: str, statements: str) -> None:
    """Have the user refused each statement, a line each."""
    with psycopg.connect(url, autocommit=True) as conn:
        for statement in statements.strip().splitlines():
            with pytest.raises(errors.InsufficientPrivilege):
                conn.execute(statement)


def test_every_table_is_somebody_s(owner: str) -> None:
    """A worker may read every table and view that there is: one that a migration adds has to be in the file."""
    with psycopg.connect(as_user(owner, "a_worker")) as conn:
        for name in metadata.tables:
            conn.execute(f"select from {name} limit 1")


def test_a_worker_does_all_its_work(
    owner: str, redis_url: str, simulator: Background, tmp_path: Path
) -> None:
    """Through every door, every outcome and every command, by a role that owns nothing; the producer's only puts in."""
    stand = Stand(as_user(owner, "a_worker"), redis_url, simulator, tmp_path)
    with standing(stand):
        stand.settings["VCC_MAX_REQUESTS"] = "1"
        simulator.faults(refuse_routes=["Wrong"], forbidden_providers=["Crm"])
        stand.worker("--pool", "threads")
        stand.beat()
        with Client(redis_url) as client:
            client.dispatch("by-stream", "R")
            client.dispatch_many({"externalid": f"wrong-{i}", "route": "Wrong"} for i in range(25))
            client.dispatch("forbidden", "R", provider="Crm")
        with psycopg.connect(as_user(owner, "a_producer")) as service:
            for job in (
                {"externalid": "by-inbox", "route": "R", "linkeddata": [{"type": "name", "value": WORD}]},
                {},
            ):
                service.execute("insert into inbox (job) values (%s)", [json.dumps(job)])
        stand.producer().send_task("vcc.dispatch", kwargs={"externalid": "by-celery", "route": "R"})
        jobs = tmp_path / "jobs.jsonl"
        jobs.write_text('{"externalid":"imported","route":"R"}\n{broken\n')
        run(stand, "import", str(jobs))
        run(stand, "dispatch", "by-hand", "--route", "R")
        run(stand, "release", "elsewhere", "--force", "--provider", "Other")
        found = stand.until(
            lambda s: s["states"]["dispatched"] == 5 and s["states"]["released"] == 1
            and s["held_routes"] and s["held_providers"]
        )  # fmt: skip
        assert found["rejections"] == 2
        simulator.clear_faults()
        run(stand, "resume", "--route", "Wrong")
        run(stand, "retry", "--route", "Wrong")
        run(stand, "release", "by-stream", "by-inbox", "by-celery", "imported", "by-hand")
        stand.until(lambda s: s["states"]["released"] == 6 and s["states"]["dispatched"] >= 25)
        for command in ("pause", "resume", "check", "list", "stats", "show by-stream", "rejections"):
            run(stand, *command.split())
        stand.kill()
        run(stand, "prune", VCC_KEEP_FOR="1ms")
        assert stand.stats()["states"]["released"] == stand.stats()["rejections"] == 0
        assert "42501" not in stand.logs()
        assert "InsufficientPrivilege" not in stand.logs()


def test_what_a_worker_may_not(owner: str) -> None:
    """A worker changes rows and nothing else: no table, no migration, no inbox of its own, no second valve."""
    refused(
        as_user(owner, "a_worker"),
        """
        create table mine (id int)
        create temporary table mine (id int)
        drop table interactions
        alter table interactions add column mine int
        truncate interactions
        alter table inbox disable trigger all
        create trigger mine after insert on interactions execute function inbox_notify()
        create index on interactions (route)
        insert into gate default values
        delete from gate
        insert into inbox (job) values ('{}')
        update inbox set job = '{}'
        update alembic_version set version_num = 'x'
        delete from alembic_version
        select setval('turns', 1)
        update audit set who = 'somebody else'
        delete from audit
        delete from totals
        delete from tallied
        insert into tallied default values
        create role mine
        copy interactions to program 'true'
        select pg_read_file('/etc/passwd')
        """.replace("        ", ""),
    )


def test_what_a_producer_may_not(owner: str) -> None:
    """A producer puts jobs in; it reads nothing, not even its own."""
    refused(
        as_user(owner, "a_producer"),
        """
        select job from inbox
        select count(*) from inbox
        insert into inbox (job) values ('{}') returning id
        insert into inbox (job, created_at) values ('{}', now())
        update inbox set job = '{}'
        delete from inbox
        select externalid from interactions
        insert into rejections (door, reason, job) values ('', '', '')
        update gate set paused_at = now()
        create table mine (id int)
        """.replace("        ", ""),
    )


def test_who_looks_sees_no_words(owner: str, redis_url: str, simulator: Background, tmp_path: Path) -> None:
    """Statistics, lists and stories are there for who looks; what customers wrote is not, and nothing is changed."""
    words = {"linkeddata": [{"type": "name", "value": WORD}]}
    stand = Stand(as_user(owner, "a_worker"), redis_url, simulator, tmp_path)
    with standing(stand):
        stand.worker("--pool", "threads")
        with Client(redis_url) as client:
            client.dispatch("seen", "R", **words)
        with psycopg.connect(as_user(owner, "a_producer")) as service:
            service.execute("insert into inbox (job) values (%s)", [json.dumps({"nonsense": WORD})])
        stand.until(lambda s: s["states"]["dispatched"] == s["rejections"] == 1)
    looking = replace(stand, database_url=as_user(owner, "a_viewer"))
    assert json.loads(run(looking, "stats", "--json"))["states"]["dispatched"] == 1
    assert json.loads(run(looking, "list", "--json"))[0]["externalid"] == "seen"
    timeline = json.loads(run(looking, "show", "seen", "--json"))["lifecycles"][0]["timeline"]
    assert [moment["event"] for moment in timeline] == ["recorded", "dispatch sent", "dispatched"]
    assert len(json.loads(run(looking, "rejections", "--json"))) == 1
    run(looking, "pause", "a reason", code=1)
    refused(
        as_user(owner, "a_viewer"),
        """
        select request from interactions
        select * from interactions
        select interactions from interactions
        select answer from invocations
        select job from rejections
        select token from sessions
        select count(*) from sessions
        insert into audit (who, action) values ('x', 'x')
        update tallied set upto = 9
        delete from tallies
        select job from inbox
        select requestid from receipts
        copy interactions to stdout
        update gate set paused_at = now()
        update interactions set state = 'failed'
        delete from rejections
        insert into inbox (job) values ('{}')
        create table mine (id int)
        """.replace("        ", ""),
    )
    with opened(as_user(owner, "a_viewer")) as engine, engine.connect() as conn:
        everything: list[Any] = [
            queries.stats(conn),
            queries.listing(conn),
            queries.rejections(conn),
            queries.show(conn, "seen"),
            *page(conn, words=False),
        ]
    assert WORD not in str(everything)
    with opened(as_user(owner, "a_worker")) as engine:
        with engine.begin() as conn:
            imports.report(conn, imports.begin(conn, "cli:me", "a.mbox", None), 0.5, 1, 1, 0, 0)
            conn.exec_driver_sql("update invocations set started_at = now() - interval '1 hour'")
        assert tallies.roll(engine, 90) == 1
        with engine.begin() as conn:
            assert WORD in str(page(conn, words=True))
