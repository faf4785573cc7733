"""The token endpoint: OAuth 2 client credentials, and which of the tokens still hold."""

import secrets
import time
from dataclasses import dataclass, field
from urllib.parse import parse_qsl


@dataclass
class Tokens:
    """The credentials of one client and the bearer tokens that it was given.

    Attributes:
        client_id: the one client that is known.
        client_secret: its secret.
        seconds: how long a token holds.
    """

    client_id: str
    client_secret: str
    seconds: float
    _expiry: dict[str, float] = field(default_factory=dict, repr=False)

    def issue(self) -> str:
        """Make a token that holds from now on."""
        token = secrets.token_urlsafe(24)
        self._expiry[token] = time.monotonic() + self.seconds
        return token

    def authorise(self, authorization: str) -> bool:
        """Tell whether an ``authorization`` header names a token that was issued and still holds."""
        scheme, _, token = authorization.partition(" ")
        return scheme == "Bearer" and time.monotonic() < self._expiry.get(token, 0.0)

    def revoke(self, authorization: str) -> None:
        """Let the token in an ``authorization`` header hold no longer."""
        self._expiry.pop(authorization.partition(" ")[2], None)

    def objection(self, content_type: str, body: bytes) -> tuple[int, str] | None:
        """Say what is wrong with a request for a token: a status and OAuth's error code; None if nothing."""
        if content_type.partition(";")[0].strip() != "application/x-www-form-urlencoded":
            return 400, "invalid_request"
        form = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        if form.get("grant_type") != "client_credentials":
            return 400, "unsupported_grant_type"
        if form.get("scope") != "interactions:write":
            return 400, "invalid_scope"
        if (form.get("client_id"), form.get("client_secret")) != (self.client_id, self.client_secret):
            return 401, "invalid_client"
        return None
