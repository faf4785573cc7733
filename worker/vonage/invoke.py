"""Call Invoke (*Create inbound interaction*): bytes in, an outcome out."""

import time
from dataclasses import replace
from datetime import UTC, datetime

import httpx

from worker.domain.outcome import Accepted, Answer, Outcome
from worker.settings import Settings
from worker.vonage.auth import TokenError, Tokens
from worker.vonage.classify import Received, classify
from worker.vonage.deadline import Deadline
from worker.vonage.echo import without_token, without_words
from worker.vonage.transport import again, check_urls, exchange, open_client

MEDIA_TYPE = "application/vnd.newvoicemedia.v1+json"
"""The version of the API that is spoken (*Versioning*)."""


class Api:
    """The Interactions API: one for each process, made after the fork, shared by its threads.

    Raises SettingsError where ``VCC_API_URL`` or ``VCC_AUTH_URL`` would send credentials in the clear.
    """

    def __init__(self, settings: Settings) -> None:
        check_urls(settings)
        self._settings = settings
        self._client = open_client()
        self._tokens = Tokens(settings, self._client)

    def close(self) -> None:
        """Close every connection."""
        self._client.close()

    def invoke(self, body: bytes) -> Outcome:
        """Send one Invocation and say what came of it, within ``VCC_TIMEOUT`` all in all.

        Args:
            body: the encoded Invocation, as ``payload.encode`` makes it.
        """
        started = time.monotonic()
        deadline = Deadline(self._settings.timeout)
        try:
            got: Received | Exception = self._authorised(body, deadline)
        except TokenError as error:
            return _timed(error.outcome, time.monotonic() - started)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
            got = error
        outcome = classify(got, seconds=time.monotonic() - started, now=datetime.now(UTC))
        return without_words(outcome, body) if outcome.answer.error and outcome.answer.body else outcome

    def check(self) -> Outcome:
        """Get a token and nothing else; Accepted where there is one."""
        try:
            self._tokens.get(Deadline(self._settings.timeout))
        except TokenError as error:
            return error.outcome
        return Accepted(Answer())

    def _authorised(self, body: bytes, deadline: Deadline) -> Received:
        got, token = self._attempt(body, deadline)
        if got.status != 401:
            return got
        # A 401 means that nothing was processed, so the same body may go again under a fresh token.
        self._tokens.invalidate(token)
        return self._attempt(body, deadline)[0]

    def _attempt(self, body: bytes, deadline: Deadline) -> tuple[Received, str]:
        token = self._tokens.get(deadline)
        got = again(deadline, httpx.ConnectError, httpx.ConnectTimeout)(self._send, body, token, deadline)
        return got, token

    def _send(self, body: bytes, token: str, deadline: Deadline) -> Received:
        headers = {
            "accept": MEDIA_TYPE,
            "authorization": f"Bearer {token}",
            "content-type": "application/json",
        }
        got = exchange(self._client, self._settings.invoke_url, deadline, headers=headers, content=body)
        return Received(got.status, got.headers, without_token(got.body, token), got.fault)


def _timed(outcome: Outcome, seconds: float) -> Outcome:
    return replace(outcome, answer=replace(outcome.answer, seconds=seconds))
