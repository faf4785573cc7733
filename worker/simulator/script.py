"""Play the faults: which of them strikes the call at hand, and for how much longer."""

import random
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.responses import Response

from worker.simulator.answers import Throttled, html, message
from worker.simulator.contract import Dispatch, Invocation
from worker.simulator.faults import Door, Faults, Rule


def _redirect(_: Rule) -> Response:
    return Response(status_code=302, headers={"location": "/elsewhere"})


_ANSWERS: dict[str, Callable[[Any], Response]] = {
    "throttle": lambda rule: Throttled(rule.retry_after, http_date=rule.http_date),
    "unauthorised": lambda _: message(401, "The access token is invalid, expired or missing"),
    "not_found": lambda _: message(404, "Not Found"),
    "redirect": _redirect,
    "status": lambda rule: message(rule.status, "Scripted answer"),
    "html503": lambda _: html(503),
    "html200": lambda _: html(200),
}


class Script:
    """The faults in force and how far each has run.

    Attributes:
        faults: what was asked for; the counts left are not in it.
    """

    def __init__(self, faults: Faults) -> None:
        self.faults = Faults()
        self._left: dict[str, int | None] = {}
        self._until: dict[str, float] = {}
        self._admitted: deque[float] = deque()
        self._random = random.Random(0)  # noqa: S311 - chance, no secret
        self._arm(faults, faults.__struct_fields__)

    def merge(self, patch: dict[str, Any]) -> None:
        """Replace the members that ``patch`` names; raises msgspec.ValidationError for a wrong one."""
        given = {name: value for name, value in patch.items() if value is not None}
        wanted = msgspec.convert(given, Faults)
        names = tuple(name for name in Faults.__struct_fields__ if name in patch)
        if unknown := patch.keys() - set(names):
            raise msgspec.ValidationError(f"There is no fault named {min(unknown)!r}")
        self._arm(wanted, names)

    def clear(self) -> None:
        """Let everything go well again."""
        self._arm(Faults(), Faults.__struct_fields__)

    def fires(self, name: str, door: Door) -> bool:
        """Tell whether the rule ``name`` strikes the call at hand, and count that call."""
        rule: Rule | None = getattr(self.faults, name)
        if rule is None or rule.at not in (door, "both") or self._ran_out(name):
            return False
        if self._random.random() >= rule.probability:
            return False
        left = self._left[name]
        self._left[name] = None if left is None else left - 1
        return True

    def answer(self, door: Door) -> Response | None:
        """Answer in place of the API, if a rule says so."""
        for name, make in _ANSWERS.items():
            if self.fires(name, door):
                return make(getattr(self.faults, name))
        return Throttled() if door == "invoke" and self._over_rate() else None

    def objection(self, invocation: Invocation) -> Response | None:
        """Refuse an Invocation for what it carries, if it carries something that is to be refused."""
        if invocation.provider in self.faults.forbidden_providers:
            return message(403, "Not authorised for this provider")
        for request in invocation.requests:
            if request.externalid in self.faults.poison:
                return message(400, f"Interaction '{request.externalid}' is refused")
            if request.externalid in self.faults.poison_500:
                return message(500, "Unexpected error")
            if isinstance(request, Dispatch) and request.route in self.faults.refuse_routes:
                return message(400, f"Route '{request.route}' does not exist")
        return None

    def _arm(self, faults: Faults, names: tuple[str, ...]) -> None:
        self.faults = msgspec.structs.replace(self.faults, **{name: getattr(faults, name) for name in names})
        for name in names:
            rule = getattr(faults, name)
            if isinstance(rule, Rule):
                self._left[name] = rule.calls
                self._until[name] = time.monotonic() + (rule.seconds or float("inf"))
        if "seed" in names:
            self._random.seed(faults.seed)
        if "rate" in names:
            self._admitted.clear()

    def _ran_out(self, name: str) -> bool:
        return self._left[name] == 0 or time.monotonic() >= self._until[name]

    def _over_rate(self) -> bool:
        if self.faults.rate is None:
            return False
        now = time.monotonic()
        while self._admitted and self._admitted[0] <= now - 1.0:
            self._admitted.popleft()
        if len(self._admitted) >= self.faults.rate:
            return True
        self._admitted.append(now)
        return False
