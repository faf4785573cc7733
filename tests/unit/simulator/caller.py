"""Somebody who calls the simulator over the socket, and valid requests to call it with."""

from itertools import count
from typing import Any

import httpx

HEADERS = {"accept": "application/vnd.newvoicemedia.v1+json", "content-type": "application/json"}
CREDENTIALS = {
    "grant_type": "client_credentials",
    "client_id": "simulator",
    "client_secret": "simulator",
    "scope": "interactions:write",
}
_numbers = count()


def dispatch(externalid: str | None = "a", **members: Any) -> dict[str, Any]:
    """Make a dispatch that keeps the contract."""
    made = {"action": "dispatch", "requestid": f"d{next(_numbers)}", "externalid": externalid, "route": "R"}
    return {**made, "routingdata": {"interactiontype": "nonlive"}, **members}


def release(externalid: str = "a", **members: Any) -> dict[str, Any]:
    """Make a release that keeps the contract."""
    return {"action": "release", "requestid": f"r{next(_numbers)}", "externalid": externalid, **members}


class Caller:
    """A client of one simulator: calls as the reference says, and any other way on request."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, trust_env=False, timeout=60)
        self.authorization = ""

    def token(self, **members: str) -> httpx.Response:
        """Ask for a token, with some members of the form set otherwise."""
        return self.http.post("/Auth/connect/token", data={**CREDENTIALS, **members})

    def log_in(self) -> None:
        """Carry a fresh token from now on."""
        self.authorization = f"Bearer {self.token().json()['access_token']}"

    def send(self, content: Any, **headers: str) -> httpx.Response:
        """Call Invoke with any body; a header named in ``headers`` is sent as given."""
        sent = {**HEADERS, "authorization": self.authorization}
        sent.update((name.replace("_", "-"), value) for name, value in headers.items())
        return self.http.post("/interactions/Invoke", content=content, headers=sent)

    def invoke(self, *requests: dict[str, Any], **members: Any) -> httpx.Response:
        """Call Invoke with these requests."""
        request = self.http.build_request("POST", "/", json={"requests": list(requests), **members})
        return self.send(request.content)
