"""What one call to Invoke can have come to: a closed set.

``classify`` (in ``worker.vonage``) makes one of these of every answer and every exception; ``settle``
alone acts on it. They are grouped by what they say about the requests that the call carried::

    Accepted                                processed, all of them
    Refused                                 certainly none processed: at least one is bad
    Throttled Unauthorised Forbidden        certainly none processed, through no fault of the requests
    Misdirected NotSent                     likewise
    Unknown                                 perhaps processed: send again with the same requestid
"""

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back over HTTP, as far as anything did.

    Attributes:
        status: the HTTP status; None where no answer was read.
        error: one line for people, made of the answer's ``message`` or of the exception's kind.
            Never holds a secret.
        body: the beginning of the answer's body, kept with the call's record.
        retry_after: seconds named by ``Retry-After``, already bounded; None where there was none.
        seconds: how long the call took.
    """

    status: int | None = None
    error: str | None = None
    body: str = ""
    retry_after: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Outcome:
    answer: Answer
    name: ClassVar[str]
    certain: ClassVar[bool] = True


class Accepted(_Outcome):
    """2xx with JSON or an empty body: every request was taken."""

    name = "accepted"


class Refused(_Outcome):
    """400, 413, 417, 422: at least one request is bad, none was processed."""

    name = "refused"


class Throttled(_Outcome):
    """429: the account's fair usage limit; none was processed."""

    name = "throttled"


class Unauthorised(_Outcome):
    """401 with a fresh token, or the token endpoint refused the credentials."""

    name = "unauthorised"


class Forbidden(_Outcome):
    """403: these credentials may not use this provider."""

    name = "forbidden"


class Misdirected(_Outcome):
    """3xx, 404, 405, any other 4xx: a wrong URL or account, not a wrong request."""

    name = "misdirected"


class NotSent(_Outcome):
    """The request certainly never reached the API."""

    name = "not_sent"


class Unknown(_Outcome):
    """408, 5xx, a cut connection, an unreadable answer: it may have been processed."""

    name = "unknown"
    certain = False


Outcome = Accepted | Refused | Throttled | Unauthorised | Forbidden | Misdirected | NotSent | Unknown
