"""The faults that can be scripted, and the JSON of ``POST /_sim/faults``.

Each member is one fault. A member that is posted replaces what stood under its name, null takes it away, the
others stay as they are. Most are *rules* and share these members, all optional::

    calls        only the next so many calls
    seconds      only for so long from now
    probability  0 to 1 of each call (seeded: ``seed``)
    at           "invoke" (the default), "token" or "both"

Without ``calls`` and ``seconds`` a rule stays until it is taken away. Of the rules that answer instead of
processing, the first in this order that fires answers, and only that one counts down::

    cut_before    {}                                    closed without an answer, nothing processed
    throttle      {"retry_after": 3, "http_date": true} 429; without retry_after: no such header
    unauthorised  {}                                    401
    not_found     {}                                    404
    redirect      {}                                    302
    status        {"status": 500}                       any status from 400 on, with {"message": …}
    html503       {}                                    a gateway's 503
    html200       {}                                    a proxy's 200, nothing processed

The other rules leave the processing alone::

    revoke        {}            the caller's token is taken back first: 401 until it has a fresh one
    late          {"by": 9}     seconds between the call and its processing
    cut_after     {}            processed, then closed without an answer
    garbled       {}            processed, then a 200 whose JSON breaks off
    delay         {"by": 2.5}   seconds between the processing and the answer (or the cut)
    drip          {"over": 10}  the answer's body byte by byte, over so many seconds

And these are no rules, but hold for Invoke until they are taken away::

    rate                 5          more calls than that in any one second: 429
    forbidden_providers  ["P"]      403
    poison               ["id"]     an Invocation with one of these externalids: 400
    poison_500           ["id"]     the same, 500; not processed either
    refuse_routes        ["R"]      an Invocation with a dispatch to one of these: 400
    seed                 7          starts the random numbers anew

So ``{"throttle": {"calls": 2, "retry_after": 3}, "poison": ["a"]}`` throttles two calls and refuses "a".
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Door = Literal["invoke", "token"]
_Positive = Annotated[float, Meta(gt=0)]


class Rule(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """When a fault happens: for the next calls, for some seconds, now and then, or always."""

    calls: Annotated[int, Meta(ge=1)] | None = None
    seconds: _Positive | None = None
    probability: Annotated[float, Meta(ge=0, le=1)] = 1.0
    at: Literal["invoke", "token", "both"] = "invoke"


class Throttle(Rule, frozen=True):
    """429; ``retry_after`` in seconds, as a date if ``http_date``."""

    retry_after: Annotated[float, Meta(ge=0)] | None = None
    http_date: bool = False


class Status(Rule, frozen=True):
    """An error of any status."""

    status: Annotated[int, Meta(ge=400, le=599)] = 500


class Delay(Rule, frozen=True):
    """Wait ``by`` seconds."""

    by: _Positive


class Drip(Rule, frozen=True):
    """Take ``over`` seconds for the answer's body."""

    over: _Positive


class Faults(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Everything that can be made to go wrong; the module's docstring says what each is."""

    cut_before: Rule | None = None
    throttle: Throttle | None = None
    unauthorised: Rule | None = None
    not_found: Rule | None = None
    redirect: Rule | None = None
    status: Status | None = None
    html503: Rule | None = None
    html200: Rule | None = None
    revoke: Rule | None = None
    late: Delay | None = None
    cut_after: Rule | None = None
    garbled: Rule | None = None
    delay: Delay | None = None
    drip: Drip | None = None
    rate: Annotated[int, Meta(ge=1)] | None = None
    forbidden_providers: frozenset[str] = frozenset()
    poison: frozenset[str] = frozenset()
    poison_500: frozenset[str] = frozenset()
    refuse_routes: frozenset[str] = frozenset()
    seed: int = 0
