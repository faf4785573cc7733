"""What an upstream service imports to enqueue jobs: light, and as fast as Redis takes them.

    from worker.client import Client

    with Client("redis://localhost:6379/0") as vcc:
        requestid = vcc.dispatch("40a4b50f", "Route Interaction NR")
        vcc.release("40a4b50f")

A job is checked here, so that a mistake is known at once, gets its ``requestid``, and goes as one entry of a Redis
stream to whichever worker reads it. What can go wrong, by what there is to do about it:

    JobError                the job can't be recorded: mend it; nothing was sent
    SendError               send ``error.jobs`` again: they carry their requestids, so that is always safe
      FullError             ... when workers have made room: nothing of the last call was taken
      UnreachableError      ... when Redis is back: the jobs may have arrived or not
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec
import redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.connection import Connection
from redis.exceptions import (
    AuthenticationError,
    ConnectionError,  # noqa: A004 -- Redis's own
    NoScriptError,
    OutOfMemoryError,
    RedisError,
    TimeoutError,  # noqa: A004 -- Redis's own
)
from redis.retry import Retry

from worker.domain.job import LIMIT, JobError, parse
from worker.domain.requestid import new_requestid
from worker.traceparent import traceparent

__all__ = ["Client", "FullError", "JobError", "SendError", "UnreachableError"]

STREAM = "vcc:jobs"
FIELD = "job"
TRACEPARENT = "traceparent"
"""The field beside it: the producer's trace, where there is one, as the W3C writes it."""

CHUNK = 500
"""Jobs that go in one round trip at most: they arrive together or not at all."""

CHUNK_BYTES = 10 * LIMIT

MOST_THREADS = 10_000
"""Connections at most: a thread that sends has one."""

FULL_MEMORY = "Redis is out of memory: let workers take jobs in, or give it more"

# Length and entry in one step: between two, others would add theirs.
_ADD = f"""
if redis.call('XLEN', KEYS[1]) + #ARGV - 2 > tonumber(ARGV[1]) then return 0 end
local beside = ARGV[2] ~= '' and {{'{TRACEPARENT}', ARGV[2]}} or {{}}
for i = 3, #ARGV do redis.call('XADD', KEYS[1], '*', '{FIELD}', ARGV[i], unpack(beside)) end
return #ARGV - 2
"""
_ADD_SHA = hashlib.sha1(_ADD.encode()).hexdigest()  # noqa: S324 -- Redis's own name for a script


class SendError(Exception):
    """Jobs did not all arrive, as far as is known.

    Attributes:
        jobs: those that may not have arrived, complete with their requestids; ``Client.send`` takes them.
    """

    def __init__(self, message: str, jobs: Sequence[dict[str, Any]]) -> None:
        super().__init__(f"{message}; send error.jobs again, which is safe: they carry their requestids")
        self.jobs = list(jobs)


class FullError(SendError):
    """The stream, or Redis, has no room: jobs come faster than the workers take them, or no worker runs."""


class UnreachableError(SendError):
    """Redis could not be reached, or did not answer in time."""


class Client:
    """Enqueues jobs; one serves all threads of a process, and forked children too.

    Args:
        redis_url: the workers' ``REDIS_URL``.
        timeout: seconds to wait for a connection, and for an answer. Each is tried twice, so no call takes
            longer than four times that.
        limit: entries of the stream past which nothing more is added, so that Redis keeps memory to work with.
    """

    def __init__(self, redis_url: str, *, timeout: float = 5.0, limit: int = 500_000) -> None:
        self._limit = limit
        # an idle connection may have died; sending twice is harmless, for the requestid is the same
        self._retry = Retry(
            ExponentialWithJitterBackoff(cap=0.5, base=0.05),
            1,
            supported_errors=(ConnectionError, TimeoutError),
        )
        try:
            self._pool = _pool_of(redis_url)(
                redis_url,
                max_connections=MOST_THREADS,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                socket_keepalive=True,
                protocol=2,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError:  # its text might quote the password
            raise ValueError(
                "redis_url can't be read: write redis://user:password@host:6379/0, with what is special in the"
                " password percent-encoded"
            ) from None

    def dispatch(
        self,
        externalid: str,
        route: str,
        interactiontype: str | None = None,
        provider: str | None = None,
        linkeddata: Sequence[Mapping[str, str]] | None = None,
        routingdata: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
        requestid: str | None = None,
        lane: str = "live",
        again: bool = False,
    ) -> str:
        """Enqueue a dispatch.

        Args:
            externalid: the caller's own id of the interaction, 1 to 1,024 bytes.
            route: the named route.
            interactiontype: ``live``, ``nonlive`` (the default) or ``chat``; a shorthand for a member of
                ``routingdata``.
            provider: the registered provider.
            linkeddata: what the agent sees.
            routingdata: ``interactiontype``, ``personalqueue``, ``skills``.
            extra: further members of the Interaction object.
            requestid: the API's idempotency key; made here where it is missing.
            lane: ``live``, or ``backlog`` for what may wait behind everything live.
            again: the customer wrote again: end the dispatched lifecycle and open a new one.

        Returns:
            The requestid.

        Raises:
            JobError: the job can't be recorded; nothing was sent.
            SendError: it may not have arrived; send it again with ``error.jobs``.
        """
        if interactiontype is not None and isinstance(routingdata, Mapping | None):
            routingdata = {"interactiontype": interactiontype, **(routingdata or {})}
        job = {
            "externalid": externalid,
            "route": route,
            "provider": provider,
            "linkeddata": linkeddata,
            "routingdata": routingdata,
            "extra": extra,
            "requestid": requestid,
            "lane": lane,
            "again": again,
        }
        return self.send([job])[0]

    def release(
        self, externalid: str, requestid: str | None = None, dispatch_requestid: str | None = None
    ) -> str:
        """Enqueue a release.

        Args:
            externalid: as dispatched.
            requestid: the release's own, never the dispatch's; made here where it is missing.
            dispatch_requestid: the dispatch that it is for; otherwise it is for the newest that came before it.

        Returns:
            The requestid.

        Raises:
            JobError: the job can't be recorded; nothing was sent.
            SendError: it may not have arrived; send it again with ``error.jobs``.
        """
        job = {
            "action": "release",
            "externalid": externalid,
            "requestid": requestid,
            "dispatch_requestid": dispatch_requestid,
        }
        return self.send([job])[0]

    def dispatch_many(self, jobs: Iterable[Mapping[str, Any]]) -> list[str]:
        """Enqueue dispatches, each a mapping with the fields of a job; returns their requestids in order.

        Raises:
            JobError: one of them can't be recorded, the message says which; none was sent.
            SendError: some may not have arrived; send ``error.jobs`` again.
        """
        return self.send(_acting("dispatch", job) for job in jobs)

    def release_many(self, externalids: Iterable[str | Mapping[str, Any]]) -> list[str]:
        """Enqueue releases, each an externalid or a mapping as ``release`` takes it; returns their requestids.

        Raises:
            JobError: one of them can't be recorded, the message says which; none was sent.
            SendError: some may not have arrived; send ``error.jobs`` again.
        """
        return self.send(
            _acting("release", one if isinstance(one, Mapping) else {"externalid": one})
            for one in externalids
        )

    def send(self, jobs: Iterable[Mapping[str, Any]]) -> list[str]:
        """Enqueue jobs of either action in their order; returns their requestids.

        Raises:
            JobError: one of them can't be recorded, the message says which; none was sent.
            SendError: some may not have arrived; send ``error.jobs`` again.
        """
        ready = list(_checked(jobs))
        for first, chunk in _chunks([entry for _, entry in ready], min(CHUNK, self._limit)):
            failed = self._send(chunk)
            if failed is not None:
                kind, reason = failed
                raise kind(reason, [job for job, _ in ready[first:]])
        return [job["requestid"] for job, _ in ready]

    def _send(self, entries: Sequence[bytes]) -> tuple[type[SendError], str] | None:
        """Add entries, all or none; what went wrong, if it did."""
        try:
            added = self._run(entries)
        except OutOfMemoryError:
            return FullError, FULL_MEMORY
        except AuthenticationError:
            return UnreachableError, "Redis refuses the name or password: look at redis_url"
        except (ConnectionError, TimeoutError) as error:
            return UnreachableError, f"Redis does not answer ({type(error).__name__})"
        except RedisError as error:
            if "OOM command" in str(error):  # as Redis before 7 says it of a script
                return FullError, FULL_MEMORY
            # of a command that it does not know Redis quotes the arguments
            return SendError, f"Redis refuses the jobs ({str(error).partition(', with args')[0]})"
        if added:
            return None
        return (
            FullError,
            f"the stream {STREAM} is at its limit of {self._limit:,} entries: see that workers run",
        )

    def _run(self, entries: Sequence[bytes]) -> int:
        # straight on a connection: redis.Redis would spend a third of the time of a job on its own account
        connection = self._pool.get_connection()
        try:
            return self._retry.call_with_retry(
                lambda: _ask(connection, self._limit, entries),
                lambda _: connection.disconnect(),  # type: ignore[no-untyped-call]
            )
        except BaseException:  # an answer may be under way; the next call must not take it for its own
            connection.disconnect()  # type: ignore[no-untyped-call]
            raise
        finally:
            self._pool.release(connection)

    def close(self) -> None:
        """Close the connections; the client opens new ones if it is used again."""
        self._pool.disconnect(inuse_connections=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _pool_of(redis_url: str) -> Callable[..., redis.ConnectionPool]:
    """What makes the connections: to the Redis at the URL, or to the one that sentinels name."""
    if not redis_url.startswith("sentinel:"):
        return redis.ConnectionPool.from_url
    from worker.sentinels import pool  # noqa: PLC0415 -- most services have none, and need not pay for it

    return pool


def _ask(connection: Connection, limit: int, entries: Sequence[bytes]) -> int:
    arguments = (1, STREAM, limit, traceparent(), *entries)
    try:
        connection.send_command("EVALSHA", _ADD_SHA, *arguments)  # type: ignore[no-untyped-call]
        return int(connection.read_response())
    except NoScriptError:  # a new server, or one that was restarted
        connection.send_command("EVAL", _ADD, *arguments)  # type: ignore[no-untyped-call]
        return int(connection.read_response())


def _checked(jobs: Iterable[Mapping[str, Any]]) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Each job with its requestid, and as it goes into the stream."""
    for index, given in enumerate(jobs):
        try:
            if not isinstance(given, Mapping):
                parse(given)  # which says what it is, unless it could be read all the same
                raise JobError(f"job: is a {type(given).__name__}; it must be a mapping")
            job = {name: value for name, value in given.items() if value is not None}
            if "requestid" not in job:
                job["requestid"] = new_requestid()
            yield job, msgspec.json.encode(parse(job))
        except JobError as error:
            raise JobError(f"{error} (job {index} of this call, counted from 0)") from None


def _acting(action: str, job: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**job, "action": action} if isinstance(job, Mapping) else job


def _chunks(entries: Sequence[bytes], most: int) -> Iterator[tuple[int, Sequence[bytes]]]:
    """Cut into what one round trip takes: where each begins, and what it is."""
    first = size = 0
    for index, entry in enumerate(entries):
        if index > first and (index - first == most or size + len(entry) > CHUNK_BYTES):
            yield first, entries[first:index]
            first, size = index, 0
        size += len(entry)
    if entries:
        yield first, entries[first:]
