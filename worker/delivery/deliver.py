"""Deliver: pass the valve, claim, pack, look again, invoke, settle.

Killed at any line: before the claim's commit nothing has happened; after it the rows come back by their lease and
go out again under the same requestids, which the API drops if it has them already.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from itertools import count
from typing import Any

from sqlalchemy import Engine

from worker import tracing
from worker.delivery.pack import pack
from worker.domain.job import LIMIT, envelope
from worker.domain.outcome import Accepted, Forbidden, Misdirected, Outcome, Refused, Unauthorised
from worker.logs import get_logger
from worker.settings import Settings
from worker.stopping import NEVER, Stopping
from worker.store import gate
from worker.store.claim import Claim, Claimed, claim, give_back
from worker.store.gate import Passage
from worker.store.settle import Bounds, settle
from worker.vonage.invoke import Api

log = get_logger(__name__)

SLICE = 0.5
"""Seconds after which a delivery makes way, so that threads full of deliveries take jobs in all the same."""

FRESH = 0.5
"""Seconds for which a claim's own look at the valve is good enough."""

BUDGET = LIMIT - envelope("")
"""Bytes of an Invocation's requests."""

LOUD = (Unauthorised, Forbidden, Misdirected)
"""Outcomes that need a person."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What a delivery works with.

    Attributes:
        engine: the database.
        api: the Interactions API.
        settings: limits, lease and rate.
        wake: starts a helper where more is due than one call takes.
        stopping: the order to send nothing any more.
    """

    engine: Engine
    api: Api
    settings: Settings
    wake: Callable[[], None]
    stopping: Stopping = NEVER


def deliver(bench: Bench, *, go_on: Callable[[], bool] = lambda: True) -> int:
    """Make one call after another until nothing is due, the valve is closed, or ``go_on`` says no.

    Returns:
        How many calls were made.
    """
    for made in count():
        if not go_on():
            bench.wake()  # whatever is left must not wait for the tick
            return made
        if not deliver_once(bench):
            return made
    raise AssertionError  # pragma: no cover - count() does not end


def deliver_once(bench: Bench) -> bool:
    """Make one call, if the valve lets it pass and something is due; whether it is worth going on."""
    passage = _enter(bench)
    if passage is None:
        return False
    since = time.monotonic()
    claimed = _claim(bench, passage)
    return claimed is not None and carry(bench, Load(passage, claimed, since)) is not After.STOP


@dataclass(frozen=True, slots=True)
class Load:
    """Rows in flight, their claim committed.

    Attributes:
        passage: how the valve was passed.
        claim: the rows.
        since: when they were about to be claimed, by the monotonic clock.
        fresh: the very claim has looked at the valve.
    """

    passage: Passage
    claim: Claim
    since: float
    fresh: bool = False


class After(Enum):
    """What is to be done after a call."""

    STOP = "the valve closed, or is about to"
    REST = "nothing: all that it carried is done with"
    MORE = "look again: something that it carried is due at once, or did not fit"


def carry(bench: Bench, load: Load) -> After:
    """Send what was claimed and settle it."""
    with tracing.calling(load.claim.call, load.claim.rows, load.since):
        return _carry(bench, load)


def _carry(bench: Bench, load: Load) -> After:
    passage = load.passage
    if load.claim.full and not passage.probe:
        bench.wake()  # before the call, so that the helper works while this one waits
    body, claimed = _pack(bench, load.claim)
    if not _may_send(bench, load):
        _give_back(bench, claimed, passage)
        return After.STOP
    with bench.stopping.calling():
        outcome = bench.api.invoke(body)
    _tell(claimed, outcome)
    left = settle(bench.engine, claimed, passage, outcome, len(body), _bounds(bench.settings))
    if not isinstance(outcome, Accepted | Refused):
        return After.STOP
    return After.MORE if left or len(claimed.rows) < len(load.claim.rows) else After.REST


def _enter(bench: Bench) -> Passage | None:
    with bench.engine.begin() as conn:
        passage = gate.enter(conn, lease=bench.settings.lease, limit=bench.settings.rate)
    if passage is None or not bench.stopping.wait(passage.wait):
        return passage
    if passage.probe:
        with bench.engine.begin() as conn:
            gate.leave(conn)
    bench.wake()
    return None


def _claim(bench: Bench, passage: Passage) -> Claim | None:
    settings = bench.settings
    with bench.engine.begin() as conn:
        claimed = claim(
            conn,
            limit=settings.max_requests,
            budget=BUDGET,
            lease=settings.lease,
            give_up_after=settings.give_up_after,
            turn=passage.turn,
            probe=passage.probe,
        )
        if claimed is None and passage.probe:
            gate.leave(conn)
    return claimed


def _pack(bench: Bench, claimed: Claim) -> tuple[bytes, Claim]:
    """Encode the rows; those that don't fit after all go back, and the claim is without them."""
    packed = pack(claimed.provider, claimed.rows)
    if not packed.left:
        return packed.body, claimed
    with bench.engine.begin() as conn:
        give_back(conn, claimed.call, [row.id for row in packed.left])
    kept = claimed.rows[: len(claimed.rows) - len(packed.left)]
    return packed.body, replace(claimed, rows=kept)


def _may_send(bench: Bench, load: Load) -> bool:
    """Whether no stop is ordered, the valve is still open, and the lease has enough left for a whole call."""
    if bench.stopping.is_set():
        return False
    most = bench.settings.lease / 2
    if load.fresh and time.monotonic() - load.since < min(FRESH, most):
        return True
    with bench.engine.begin() as conn:
        still_open = gate.still_open(conn, load.passage)
    return still_open and time.monotonic() - load.since < most


def _give_back(bench: Bench, claimed: Claim, passage: Passage) -> None:
    stopped = bench.stopping.is_set()
    reason = "the worker stops" if stopped else "the valve closed before it was sent"
    log.info("call not made", invocation=claimed.call, reason=reason, **_whose(claimed))
    with bench.engine.begin() as conn:
        give_back(conn, claimed.call, [row.id for row in claimed.rows])
        if passage.probe:
            gate.leave(conn)
    if stopped:
        bench.wake()  # somebody else's turn


def _bounds(settings: Settings) -> Bounds:
    return Bounds(settings.give_up_after, settings.rate)


def _tell(claimed: Claim, outcome: Outcome) -> None:
    tracing.came_to(outcome.name)
    log.log(
        logging.ERROR if isinstance(outcome, LOUD) else logging.INFO,
        "call made",
        invocation=claimed.call,
        outcome=outcome.name,
        status=outcome.answer.status,
        seconds=round(outcome.answer.seconds, 3),
        **_whose(claimed),
    )
    if len(claimed.rows) > 1 and logging.getLogger(__name__).isEnabledFor(logging.DEBUG):
        for row in claimed.rows:
            log.debug(
                "interaction carried", invocation=claimed.call, outcome=outcome.name, **_interaction(row)
            )


def _whose(claimed: Claim) -> dict[str, Any]:
    """Name the one interaction of a call; of many say how many they are."""
    one = _interaction(claimed.rows[0]) if len(claimed.rows) == 1 else {}
    return {"interactions": len(claimed.rows), **one}


def _interaction(row: Claimed) -> dict[str, Any]:
    return {"action": row.action, "externalid": row.externalid, "requestid": row.requestid}
