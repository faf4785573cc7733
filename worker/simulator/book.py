"""What an honest witness of all calls to Invoke saw.

An interaction is an externalid under a provider (or under none). It is *live* from a dispatch that was
processed until a release under the same provider.
"""

from collections import Counter, defaultdict, deque
from typing import Any

from msgspec import Raw, Struct

from worker.simulator.contract import Dispatch, Interaction, Invocation, Release

_LOGGED, _KEPT_WHOLE, _WINDOWS, _NAMED = 10_000, 200, 100, 5


# Without gc=False the ledger of a large import slows every garbage collection.
class Entry(Struct, gc=False):
    """One request that was processed; ``at`` is a Unix time."""

    action: str
    requestid: str
    provider: str | None
    at: float


class Call(Struct):
    """One call as it came.

    Attributes:
        at: when it began, a Unix time.
        status: what it was answered; ``cut`` where the connection was closed instead.
        headers: by lower-case name, ``authorization`` cut to its scheme.
        body: the JSON that came, or null where it was none or over the limit.
    """

    at: float
    status: str
    headers: dict[str, str]
    body: Raw


class Logged(Struct):
    """One line about a call; ``requests`` is 0 where the body did not keep the contract."""

    at: float
    status: str
    requests: int
    bytes: int
    externalids: list[str]
    actions: dict[str, int]


class Book:
    """The witness's book; also the API's own memory of requestids and of what is live.

    Args:
        allowance: seconds after a 429 was sent in which further calls are not yet held against the caller.
    """

    def __init__(self, allowance: float = 0.0) -> None:
        self.kept: deque[Call] = deque(maxlen=_KEPT_WHOLE)
        self._allowance = allowance
        self._count: Counter[str] = Counter()
        self._by_status: Counter[str] = Counter()
        self._largest_body = self._largest_requests = 0
        self._requestids: set[str] = set()
        self._live: set[tuple[str | None, str]] = set()
        self._dispatched: set[tuple[str | None, str]] = set()
        self._released: set[tuple[str | None, str]] = set()
        self._ledger: defaultdict[str, list[Entry]] = defaultdict(list)
        self._log: deque[Logged] = deque(maxlen=_LOGGED)
        self._windows: deque[tuple[float, float]] = deque(maxlen=_WINDOWS)

    def process(self, invocation: Invocation, at: float) -> None:
        """Do what an Invocation asks, each requestid once."""
        self._count["unknown_members"] += invocation.unknown_members
        for request in invocation.requests:
            if request.requestid in self._requestids:
                self._count["repeated_requestids"] += 1
                continue
            self._requestids.add(request.requestid)
            name = _name(request)
            self._ledger[name].append(Entry(request.action, request.requestid, invocation.provider, at))
            if isinstance(request, Release):
                self._release(name, invocation.provider)
            else:
                self._dispatch(name, invocation.provider)

    def enter(self, call: Call, size: int, invocation: Invocation | None, *, accepted: bool) -> None:
        """Write a call down.

        Args:
            call: the call with its answer.
            size: bytes of its body.
            invocation: what it carried, None where the body did not keep the contract.
            accepted: whether it was processed and answered 200.
        """
        requests = invocation.requests if invocation else []
        self._by_status[call.status] += 1
        self._count["accepted_calls"] += accepted
        self._count["calls_while_throttled"] += any(
            sent_at + self._allowance < call.at < ends for sent_at, ends in self._windows
        )
        self._largest_body = max(self._largest_body, size)
        self._largest_requests = max(self._largest_requests, len(requests))
        self.kept.append(call)
        externalids = [_name(request) for request in requests[:_NAMED]]
        actions: Counter[str] = Counter(request.action for request in requests)
        self._log.append(Logged(call.at, call.status, len(requests), size, externalids, dict(actions)))

    def throttled(self, sent_at: float, ends: float) -> None:
        """Note that a 429 was sent which asks for no call before ``ends``; both are Unix times."""
        self._windows.append((sent_at, ends))

    def token_issued(self) -> None:
        """Note that a token was given away."""
        self._count["tokens_issued"] += 1

    def summary(self) -> dict[str, Any]:
        """Sum up, as ``GET /_sim/book`` shows it."""
        live = len(self._live)
        return {
            "calls": self._by_status.total(),
            "calls_by_status": dict(self._by_status),
            "accepted_calls": self._count["accepted_calls"],
            "interactions": {"dispatched": live, "released": len(self._dispatched) - live},
            "dispatched": len(self._dispatched),
            "released": len(self._released),
            "repeated_requestids": self._count["repeated_requestids"],
            "redispatched": self._count["redispatched"],
            "unknown_releases": self._count["unknown_releases"],
            "releases_without_provider": self._count["releases_without_provider"],
            "largest_body": self._largest_body,
            "largest_requests": self._largest_requests,
            "calls_while_throttled": self._count["calls_while_throttled"],
            "tokens_issued": self._count["tokens_issued"],
            "unknown_members": self._count["unknown_members"],
        }

    def full(self) -> dict[str, Any]:
        """Sum up, and give the ledger and the log with it."""
        return {**self.summary(), "ledger": dict(self._ledger), "log": list(self._log)}

    def _dispatch(self, name: str, provider: str | None) -> None:
        interaction = (provider, name)
        if interaction in self._live:
            self._count["redispatched"] += 1
        self._live.add(interaction)
        self._dispatched.add(interaction)

    def _release(self, name: str, provider: str | None) -> None:
        interaction = (provider, name)
        if interaction in self._live:
            self._live.remove(interaction)
            self._released.add(interaction)
        elif self._live_with_provider(name):
            self._count["releases_without_provider"] += 1
        else:
            self._count["unknown_releases"] += 1

    def _live_with_provider(self, name: str) -> bool:
        providers = {entry.provider for entry in self._ledger[name]} - {None}
        return any((provider, name) in self._live for provider in providers)


def _name(request: Interaction) -> str:
    # A dispatch may come without an externalid; nothing can ever release it, so any name of its own will do.
    if isinstance(request, Dispatch) and not request.externalid:
        return f"requestid:{request.requestid}"
    return str(request.externalid)
