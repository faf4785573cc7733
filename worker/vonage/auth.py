"""The bearer token, by client credentials (*Authentication (Interactions API)*).

One token serves all threads of a process until shortly before it expires.
"""

import math
import re
import threading
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import httpx

from worker.domain.outcome import Answer, NotSent, Outcome, Unauthorised
from worker.settings import Settings
from worker.vonage.classify import Received, classify_token, json_of
from worker.vonage.deadline import Deadline
from worker.vonage.transport import again, exchange

MARGIN = 60.0
"""Seconds before its end that a token is renewed; half of its life where that is shorter."""

ASSUMED_LIFE = 300.0
"""Seconds that a token is kept whose ``expires_in`` makes no sense."""

LONGEST_LIFE = 86_400.0

_HEADERS = {"accept": "application/json", "content-type": "application/x-www-form-urlencoded"}


class TokenError(Exception):
    """There is no token, so Invoke was not called; ``outcome`` says what that means for the call."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.answer.error)
        self.outcome = outcome


class TokenRefused(TokenError):  # noqa: N818 - its base says that it is one
    """The token endpoint refused (Unauthorised), throttled us (Throttled) or is another (Misdirected)."""


class TokenUnreachable(TokenError):  # noqa: N818 - likewise
    """The token endpoint did not answer, or answered nonsense (NotSent)."""


class Tokens:
    """The token of one process, shared by its threads."""

    def __init__(self, settings: Settings, client: httpx.Client) -> None:
        self._settings = settings
        self._client = client
        self._renewal = threading.Lock()  # held over the network
        self._swap = threading.Lock()  # held for a moment
        self._held = ("", 0.0)  # the token, and until when it is good: replaced together

    def get(self, deadline: Deadline) -> str:
        """Return a token that is good for this call; one thread renews it while the others wait.

        Raises:
            TokenRefused: there will be none until somebody changes something, or the limit is over.
            TokenUnreachable: there was none to be had before ``deadline``.
        """
        if token := self._good():
            return token
        if not self._renewal.acquire(timeout=deadline.rest()):
            raise TokenUnreachable(NotSent(Answer(error="token: no time left waiting for another thread")))
        try:
            return self._good() or again(deadline, TokenUnreachable)(self._renew, deadline)
        finally:
            self._renewal.release()

    def invalidate(self, token: str) -> None:
        """Forget ``token``, unless it has been replaced already."""
        with self._swap:
            if self._held[0] == token:
                self._held = ("", 0.0)

    def _good(self) -> str:
        token, until = self._held
        return token if time.monotonic() < until else ""

    def _renew(self, deadline: Deadline) -> str:
        asked = time.monotonic()
        fields = _fields(self._ask(deadline))
        token = fields.get("access_token")
        # It goes into a header, where anything but visible ASCII does harm.
        if not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
            raise TokenUnreachable(NotSent(Answer(error="token: the answer holds no access_token")))
        with self._swap:
            self._held = (token, asked + _life(fields.get("expires_in")))
        return token

    def _ask(self, deadline: Deadline) -> Received:
        try:
            form = _form(self._settings)
            got = exchange(self._client, self._settings.token_url, deadline, headers=_HEADERS, content=form)
        except (httpx.HTTPError, OSError) as error:
            raise TokenUnreachable(classify_token(error, now=datetime.now(UTC))) from None
        if 200 <= got.status < 300:
            return got
        outcome = classify_token(got, now=datetime.now(UTC))
        raise (TokenUnreachable if isinstance(outcome, NotSent) else TokenRefused)(outcome)


def _form(settings: Settings) -> bytes:
    secret = settings.client_secret.get_secret_value()
    if not settings.client_id or not secret:
        error = "token: VCC_CLIENT_ID or VCC_CLIENT_SECRET is not set"
        raise TokenRefused(Unauthorised(Answer(error=error)))
    return urlencode(
        {
            "grant_type": "client_credentials",
            "client_id": settings.client_id,
            "client_secret": secret,
            "scope": "interactions:write",
        }
    ).encode()


def _fields(got: Received) -> dict[str, Any]:
    try:
        found = {} if got.fault else json_of(got.body)
    except ValueError:
        found = {}
    return found if isinstance(found, dict) else {}


def _life(expires_in: object) -> float:
    try:
        life = float(expires_in)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        life = math.nan
    if not life > 0:  # NaN too
        life = ASSUMED_LIFE
    life = min(life, LONGEST_LIFE)
    return max(life - MARGIN, life / 2)
