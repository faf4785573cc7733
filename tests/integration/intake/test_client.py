"""The client that upstream services import: what arrives in the stream, and what they are told when it does not."""

import os
import threading
import time
from collections.abc import Iterator
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
import redis

from tests.factories import together
from tests.waiting import until
from worker import embedded
from worker.client import CHUNK, CHUNK_BYTES, FIELD, STREAM, Client, FullError, SendError, UnreachableError
from worker.domain.job import Job, JobError, parse

WORD = "Confidential subject"
LARGE = {"x": "x" * 90_000}


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    """Give a look at the stream."""
    with redis.Redis.from_url(redis_url, protocol=2) as connection:
        yield connection


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    """Give a client."""
    with Client(redis_url) as made:
        yield made


@pytest.fixture
def impatient(redis_url: str) -> Iterator[Client]:
    """Give a client that waits a quarter of a second at most."""
    with Client(redis_url, timeout=0.25) as made:
        yield made


def arrived(server: redis.Redis) -> list[dict[str, Any]]:
    """Read the jobs in the stream; an entry has the field ``job`` and nothing else."""
    entries = [fields for _, fields in server.xrange(STREAM)]
    assert all(list(fields) == [FIELD.encode()] for fields in entries)
    return [msgspec.json.decode(fields[FIELD.encode()]) for fields in entries]


def jobs(number: int, **fields: Any) -> list[dict[str, Any]]:
    """Make so many dispatches, each with its requestid."""
    return [{"externalid": f"e{n}", "route": "R", "requestid": f"d{n}", **fields} for n in range(number)]


# --- what arrives ---------------------------------------------------------------------------------


def test_a_job_gets_a_requestid(client: Client, server: redis.Redis) -> None:
    """A job without a requestid gets one, which is told to its sender and travels with it."""
    dispatched, released = client.dispatch("e", "R"), client.release("e")
    assert [job["requestid"] for job in arrived(server)] == [dispatched, released]
    assert dispatched != released


def test_own_requestid_is_kept(client: Client, server: redis.Redis) -> None:
    """A requestid that the sender gives is the one that travels."""
    assert client.dispatch("e", "R", requestid="mine") == "mine"
    assert client.release("e", "mine too", "mine") == "mine too"
    assert [job["requestid"] for job in arrived(server)] == ["mine", "mine too"]
    assert arrived(server)[1]["dispatch_requestid"] == "mine"


def test_a_whole_job(client: Client, server: redis.Redis) -> None:
    """Everything that a job may say arrives, by the names of the wire."""
    given: dict[str, Any] = {
        "externalid": "e",
        "route": "R",
        "provider": "P",
        "linkeddata": [{"type": "clid", "value": "+44"}],
        "routingdata": {"interactiontype": "live", "skills": [{"name": "s"}]},
        "extra": {"smsplan": {"deep": [1, None]}},
        "requestid": "d",
        "lane": "backlog",
        "again": True,
    }
    client.dispatch(**given)
    assert arrived(server) == [given]


def test_arguments_in_the_order_of_the_task(client: Client, server: redis.Redis) -> None:
    """By position the arguments mean what they mean to the Celery task."""
    linked = [{"type": "clid", "value": "1"}]
    skilled = {"skills": [{"name": "s"}]}
    client.dispatch("e", "R", "chat", "P", linked, skilled, {"a": 1}, "d", "backlog", True)
    assert arrived(server) == [
        {
            "externalid": "e",
            "route": "R",
            "provider": "P",
            "linkeddata": linked,
            "routingdata": {"interactiontype": "chat", **skilled},
            "extra": {"a": 1},
            "requestid": "d",
            "lane": "backlog",
            "again": True,
        }
    ]


def test_interactiontype_is_a_shorthand(client: Client, server: redis.Redis) -> None:
    """The interactiontype stands in routingdata, where one that is given there counts more."""
    client.dispatch("e", "R", "live")
    client.dispatch("e", "R", interactiontype="live", routingdata={"interactiontype": "chat"})
    assert [job["routingdata"]["interactiontype"] for job in arrived(server)] == ["live", "chat"]


def test_what_arrives_can_be_recorded(client: Client, server: redis.Redis) -> None:
    """What the client lets pass, a worker reads as a job: also what only Python knows how to write."""
    client.dispatch("é\u2028\U0001f600", "R", linkeddata=({"type": "clid", "value": "\x1f"},))
    client.dispatch("e", "R", extra={"number": 2**63, "float": 1e300, "none": None, "bytes": b"b"})
    client.release_many(["e" * 1024, {"externalid": "e", "requestid": "r"}])
    for _, fields in server.xrange(STREAM):
        parse(fields[b"job"])
    assert [job["externalid"] for job in arrived(server)] == ["é\u2028\U0001f600", "e", "e" * 1024, "e"]


@pytest.mark.parametrize("number", [0, 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1])
def test_many_keep_their_order(client: Client, server: redis.Redis, number: int) -> None:
    """However many jobs one call has, they arrive in its order, and so come the requestids."""
    assert client.dispatch_many(job for job in jobs(number)) == [f"d{n}" for n in range(number)]
    assert [job["externalid"] for job in arrived(server)] == [f"e{n}" for n in range(number)]


def test_large_ones_share_no_round_trip(client: Client, server: redis.Redis) -> None:
    """Jobs of 90 KB go in round trips of a bounded size, in their order."""
    client.dispatch_many(jobs(3))
    server.config_resetstat()
    assert client.dispatch_many(jobs(25, extra=LARGE)) == [f"d{n}" for n in range(25)]
    calls = server.info("commandstats")["cmdstat_evalsha"]["calls"]
    assert calls == -(-25 * 90_000 // CHUNK_BYTES) == 3
    assert [job["externalid"] for job in arrived(server)][3:] == [f"e{n}" for n in range(25)]


def test_releases_of_many(client: Client, server: redis.Redis) -> None:
    """Many are released by their externalids, or by what a release may name."""
    named = {"externalid": "b", "requestid": "r", "dispatch_requestid": "d"}
    first, second = client.release_many(["a", named])
    assert arrived(server) == [
        {"action": "release", "externalid": "a", "requestid": first},
        {"action": "release", **named},
    ]
    assert second == "r"


def test_both_actions_in_one_call(client: Client, server: redis.Redis) -> None:
    """Dispatches and releases go in one call, in its order."""
    client.send([*jobs(1), {"action": "release", "externalid": "e0"}, {**jobs(1)[0], "requestid": "d1"}])
    assert [job.get("action", "dispatch") for job in arrived(server)] == ["dispatch", "release", "dispatch"]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [0, 1, CHUNK + 7])
def test_a_wrong_job_is_named_and_nothing_sent(client: Client, server: redis.Redis, wrong: int) -> None:
    """Of many jobs one can't be recorded: it is told which, and none is sent."""
    given = jobs(CHUNK + 10)
    given[wrong]["lane"] = "later"
    with pytest.raises(JobError, match=rf"^lane: .*\b{wrong}\b"):
        client.dispatch_many(given)
    assert not server.exists(STREAM)


@pytest.mark.parametrize(
    "fields",
    [
        {"externalid": ""},
        {"externalid": "e\0"},
        {"route": 5},
        {"linkeddata": [{"value": WORD}]},
        {"linkeddata": [{"type": "clid", "value": "\ud800" + WORD}]},
        {"linkeddata": WORD},
        {"extra": {"externalid": WORD}},
        {"extra": {"x": WORD * 10_000}},
        {"extra": {"x": float("nan"), "y": WORD}},
        {"extra": {"x": object()}},
    ],
)
def test_wrong_fields(client: Client, server: redis.Redis, fields: dict[str, Any]) -> None:
    """A job that no worker could record is refused before anything is sent, in words that hold none of a customer's."""
    with pytest.raises(JobError) as refused:
        client.dispatch_many([*jobs(1), {**jobs(1)[0], **fields}])
    assert WORD not in str(refused.value)
    assert "job 1" in str(refused.value)
    assert not server.exists(STREAM)


@pytest.mark.parametrize(
    "fields",
    [
        {"linkeddata": [MappingProxyType({"type": "clid", "value": "1"})]},
        {"routingdata": MappingProxyType({"interactiontype": "chat"})},
        {"extra": MappingProxyType({"a": 1})},
    ],
)
def test_any_mapping_will_do(client: Client, server: redis.Redis, fields: dict[str, Any]) -> None:
    """A mapping need not be a dict, as the signatures say."""
    client.dispatch("e", "R", **fields)
    assert len(arrived(server)) == 1


@pytest.mark.parametrize(
    "odd", [None, 5, WORD, ["e"], b'{"externalid":"e","route":"R"}', Job(externalid="e", route="R")]
)
def test_what_is_no_mapping(client: Client, server: redis.Redis, odd: Any) -> None:
    """What is not even an object is refused as any other job, and nothing is sent."""
    with pytest.raises(JobError, match="job 1"):
        client.send([*jobs(1), odd])
    assert not server.exists(STREAM)


# --- no room --------------------------------------------------------------------------------------


def test_full_stream(redis_url: str, server: redis.Redis) -> None:
    """Past the limit nothing is added and nothing trimmed; what was not taken can be sent when there is room."""
    with Client(redis_url, limit=4) as small:
        small.dispatch_many(jobs(3))
        with pytest.raises(FullError, match="limit of 4 entries") as full:
            small.dispatch_many([{"externalid": "a", "route": "R"}, {"externalid": "b", "route": "R"}])
        assert [job["externalid"] for job in arrived(server)] == ["e0", "e1", "e2"]
        small.dispatch("last", "R")
        server.delete(STREAM)
        sent = small.send(full.value.jobs)
    assert [(job["externalid"], job["requestid"]) for job in arrived(server)] == list(
        zip("ab", sent, strict=True)
    )


def test_full_in_the_middle(redis_url: str, server: redis.Redis) -> None:
    """Where only the first jobs found room, the error has the others, in their order."""
    with Client(redis_url, limit=CHUNK + 10) as small:
        with pytest.raises(FullError) as full:
            small.dispatch_many(jobs(2 * CHUNK))
        assert full.value.jobs == jobs(2 * CHUNK, action="dispatch")[CHUNK:]
        assert len(arrived(server)) == CHUNK
    with Client(redis_url) as large:
        large.send(full.value.jobs)
    assert [job["externalid"] for job in arrived(server)] == [f"e{n}" for n in range(2 * CHUNK)]


def test_a_limit_below_a_round_trip(redis_url: str, server: redis.Redis) -> None:
    """However low the limit, what finds room is added."""
    with Client(redis_url, limit=10) as small, pytest.raises(FullError):
        small.dispatch_many(jobs(11))
    assert len(arrived(server)) == 10


def test_redis_out_of_memory(client: Client, server: redis.Redis) -> None:
    """A Redis without memory takes nothing, and says that it is full; the same jobs find room later."""
    server.config_set("maxmemory", 1)
    try:
        with pytest.raises(FullError, match="out of memory") as full:
            client.dispatch_many(jobs(3))
    finally:
        server.config_set("maxmemory", 0)
    assert arrived(server) == []
    client.send(full.value.jobs)
    assert [job["requestid"] for job in arrived(server)] == ["d0", "d1", "d2"]


def test_redis_out_of_memory_takes_nothing(client: Client, server: redis.Redis) -> None:
    """Without memory all jobs of a round trip stay out, none is taken alone."""
    client.dispatch("e", "R")
    server.config_set("maxmemory", 1)
    try:
        with pytest.raises(SendError) as failed:
            client.dispatch_many(jobs(3, extra={"x": WORD}))
    finally:
        server.config_set("maxmemory", 0)
    assert len(arrived(server)) == 1
    assert WORD not in str(failed.value)


# --- no Redis -------------------------------------------------------------------------------------


def test_redis_is_down(
    impatient: Client, redis_url: str, redis_server: embedded.Server, server: redis.Redis
) -> None:
    """Without Redis it is told in bounded time, with the jobs and their requestids, which later are taken."""
    impatient.dispatch("before", "R")
    redis_server.kill()
    start = time.monotonic()
    with pytest.raises(UnreachableError) as failed:
        impatient.dispatch_many([{"externalid": "e", "route": "R", "extra": {"x": WORD}}, *jobs(1)])
    with pytest.raises(UnreachableError):
        impatient.dispatch("e", "R")
    assert time.monotonic() - start < 20
    assert WORD not in str(failed.value)
    assert [job["externalid"] for job in failed.value.jobs] == ["e", "e0"]
    redis_server.restart()
    with Client(redis_url) as patient:
        assert patient.send(failed.value.jobs) == [job["requestid"] for job in failed.value.jobs]
    assert [job["externalid"] for job in arrived(server)][-2:] == ["e", "e0"]


@pytest.mark.parametrize("warm", [True, False])
def test_redis_is_frozen(redis_url: str, redis_server: embedded.Server, warm: bool) -> None:
    """A Redis that hangs is waited for no longer than is said, and what it takes late counts once by its requestid."""
    client = Client(redis_url, timeout=0.25)
    if warm:
        client.dispatch("before", "R")
    redis_server.freeze()
    start = time.monotonic()
    with pytest.raises(UnreachableError, match="does not answer") as failed:
        client.dispatch("e", "R")
    assert time.monotonic() - start < 20
    redis_server.thaw()
    with Client(redis_url) as patient:
        [requestid] = patient.send(failed.value.jobs)
    with redis.Redis.from_url(redis_url, protocol=2) as server:
        found = {job["requestid"] for job in arrived(server) if job["externalid"] == "e"}
    assert found == {requestid}
    client.close()


def test_redis_restarted(client: Client, redis_server: embedded.Server, server: redis.Redis) -> None:
    """A Redis that was restarted, or has forgotten the script, takes jobs as before."""
    client.dispatch("a", "R")
    redis_server.restart()
    client.dispatch("b", "R")
    server.script_flush()
    client.dispatch("c", "R")
    assert [job["externalid"] for job in arrived(server)] == ["a", "b", "c"]


def test_connection_that_was_cut(client: Client, server: redis.Redis) -> None:
    """A connection that died while it was idle costs no error."""
    client.dispatch("a", "R")
    server.client_kill_filter(_type="normal", skipme=True)
    client.dispatch("b", "R")
    assert [job["externalid"] for job in arrived(server)] == ["a", "b"]


def test_connection_that_is_cut_during_the_call(client: Client, server: redis.Redis) -> None:
    """A connection that dies before the answer came costs no error either: the jobs go again on another."""
    client.dispatch("a", "R")
    server.client_pause(5_000, all=False)
    sending = threading.Thread(target=client.dispatch, args=["b", "R"])
    sending.start()
    until(lambda: server.info("clients")["blocked_clients"])
    server.client_kill_filter(_type="normal", skipme=True)
    server.client_unpause()
    sending.join()
    assert {job["externalid"] for job in arrived(server)} == {"a", "b"}


@pytest.mark.parametrize("password", ["wrong-secret", ""])
def test_wrong_password(redis_url: str, password: str) -> None:
    """A wrong password, or none, is told as such, and without it."""
    url = urlsplit(redis_url)
    wrong = url._replace(netloc=f":{password}@{url.hostname}:{url.port}").geturl()
    with Client(wrong) as client, pytest.raises(UnreachableError, match="name or password") as failed:
        client.dispatch("e", "R")
    assert not password or password not in str(failed.value)
    assert [job["externalid"] for job in failed.value.jobs] == ["e"]


def test_stream_that_is_none(client: Client, server: redis.Redis) -> None:
    """Where something else has the stream's name the jobs come back too."""
    server.set(STREAM, "text")
    with pytest.raises(SendError, match="WRONGTYPE") as failed:
        client.dispatch("e", "R", extra={"x": WORD})
    assert (failed.value.jobs[0]["externalid"], WORD in str(failed.value)) == ("e", False)


def test_user_who_may_not(redis_url: str, server: redis.Redis) -> None:
    """A user who may not add to the stream is told so, with the jobs."""
    server.execute_command("ACL", "SETUSER", "guest", "on", ">guest", "~*", "+@all", "-@scripting")
    url = urlsplit(redis_url)
    guest = url._replace(netloc=f"guest:guest@{url.hostname}:{url.port}").geturl()
    with Client(guest) as client, pytest.raises(SendError, match="permissions") as failed:
        client.dispatch("e", "R", extra={"x": WORD})
    server.acl_deluser("guest")
    assert (failed.value.jobs[0]["externalid"], WORD in str(failed.value)) == ("e", False)


@pytest.mark.parametrize("url", ["http://localhost", "localhost:6379", "", "redis://localhost:port"])
def test_url_that_is_none(url: str) -> None:
    """A URL of something else is refused at once."""
    with pytest.raises(ValueError, match="redis_url can't be read"):
        Client(url)


@pytest.mark.parametrize("url", ["redis://:sec/ret@h:1/0", "redis://:sec#ret@h", "redis://:sec?ret@h"])
def test_url_with_an_odd_password(url: str) -> None:
    """A password that was not escaped is told as a mistake, and not shown."""
    with pytest.raises(ValueError, match="redis_url") as refused:
        Client(url)
    assert "sec" not in str(refused.value)


# --- one client for all ---------------------------------------------------------------------------


def test_many_threads(client: Client, server: redis.Redis) -> None:
    """Threads share a client; each one's jobs keep their order."""

    def send(thread: int) -> None:
        for n in range(25):
            client.dispatch(f"{thread}", "R", requestid=f"{thread}-{n}")

    together(*[lambda thread=thread: send(thread) for thread in range(8)])  # type: ignore[misc]
    found = [job["requestid"] for job in arrived(server)]
    for thread in range(8):
        mine = [requestid for requestid in found if requestid.startswith(f"{thread}-")]
        assert mine == [f"{thread}-{n}" for n in range(25)]


def test_more_threads_than_a_pool_has_by_default(client: Client, redis_server: embedded.Server) -> None:
    """As many threads as a service has may send at the same time."""
    held_up = threading.Timer(0.5, redis_server.thaw)
    redis_server.freeze()
    held_up.start()
    together(*[lambda n=n: client.dispatch(f"{n}", "R") for n in range(120)])  # type: ignore[misc]


def test_forked_child(client: Client, server: redis.Redis) -> None:
    """A forked child uses the client it inherited, beside its parent."""
    client.dispatch("before", "R")
    child = os.fork()
    if child == 0:
        try:
            for n in range(20):
                client.dispatch("child", "R", requestid=f"child-{n}")
        except BaseException:
            os._exit(1)
        os._exit(0)
    for n in range(20):
        client.dispatch("parent", "R", requestid=f"parent-{n}")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    found = [job["requestid"] for job in arrived(server)]
    assert [one for one in found if one.startswith("child")] == [f"child-{n}" for n in range(20)]
    assert [one for one in found if one.startswith("parent")] == [f"parent-{n}" for n in range(20)]


def test_closed_while_others_send(client: Client, server: redis.Redis) -> None:
    """Closing takes no connection from a thread that is sending."""

    def send(thread: int) -> None:
        for n in range(60):
            client.dispatch(f"{thread}-{n}", "R")

    def close() -> None:
        for _ in range(120):
            client.close()
            server.ping()

    together(close, *[lambda thread=thread: send(thread) for thread in range(3)])  # type: ignore[misc]
    assert len(arrived(server)) == 180


def test_closed_and_used_again(redis_url: str, server: redis.Redis) -> None:
    """A client that was closed leaves no connection behind, and opens one when it is used again."""
    before = len(server.client_list())
    with Client(redis_url) as client:
        client.dispatch("a", "R")
    until(lambda: len(server.client_list()) == before)
    client.dispatch("b", "R")
    client.close()
    client.close()
    assert [job["externalid"] for job in arrived(server)] == ["a", "b"]
