"""One HTTP exchange, safely: which addresses are allowed, how the client is set up, how much is read."""

import ipaddress
import zlib
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib import metadata

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, stop_before_delay, wait_random

from worker.settings import Settings, SettingsError
from worker.vonage.classify import Received
from worker.vonage.deadline import Deadline, bind, within

CAP = 64 * 1024
"""Bytes of an answer that are read; what is longer is no answer of this API."""

TOO_LONG = "the answer is too long"

CONNECT = 5.0
"""Seconds for one attempt to connect."""

KEEPALIVE = 20.0
"""Seconds that an idle connection is kept: well below what servers usually allow, since a request on one
that the server is just closing comes to nothing certain."""

LIMITS = httpx.Limits(max_connections=64, max_keepalive_connections=64, keepalive_expiry=KEEPALIVE)


def check_urls(settings: Settings) -> None:
    """Refuse addresses that would send credentials in the clear; raises SettingsError with the remedy."""
    for name, text in (("VCC_API_URL", settings.invoke_url), ("VCC_AUTH_URL", settings.token_url)):
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL:
            raise SettingsError(f"{name}: is no URL; write it like https://host") from None
        if url.scheme not in ("https", "http") or not url.host or url.query or url.fragment:
            raise SettingsError(f"{name}: write it like https://host, without ? or #")
        if url.port is not None and not 0 < url.port < 65_536:
            raise SettingsError(f"{name}: has no such port; write one from 1 to 65535, or none")
        if url.userinfo:
            raise SettingsError(f"{name}: must not hold a user or a password; see VCC_CLIENT_ID")
        if url.scheme == "http" and not (settings.allow_http or _is_loopback(url.host)):
            raise SettingsError(
                f"{name}: http:// sends the credentials in the clear; use https://, "
                "or set VCC_ALLOW_HTTP=true for a test server"
            )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def open_client() -> httpx.Client:
    """Open the one client of a process, thread-safe: TLS verified, nothing taken from the environment.

    No redirects, no proxy, no cookies: a call goes to the address that was set, with our headers only.
    """
    return httpx.Client(
        transport=bind(httpx.HTTPTransport(verify=True, trust_env=False, limits=LIMITS)),
        headers={"user-agent": f"vcc-worker/{_version()}", "accept-encoding": "identity"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        follow_redirects=False,
        trust_env=False,
    )


def _version() -> str:
    try:
        return metadata.version("vcc-worker")
    except metadata.PackageNotFoundError:
        return "0"


def exchange(
    client: httpx.Client, url: str, deadline: Deadline, *, headers: Mapping[str, str], content: bytes
) -> Received:
    """POST once and read the answer, all before ``deadline``.

    From the status on nothing is raised: what keeps the answer from being read to its end is its ``fault``.

    Raises:
        httpx.HTTPError: no status was read; ``classify`` says what that means.
    """
    rest = deadline.rest()
    timeout = httpx.Timeout(connect=min(CONNECT, rest), read=rest, write=rest, pool=rest)
    with (
        within(deadline) as sending,
        client.stream("POST", url, content=content, headers=headers, timeout=timeout) as response,
    ):
        body, fault = _read(response)
        if sending.torn:
            fault = "the request was not sent to its end"
        return Received(response.status_code, response.headers, body, fault)


def _read(response: httpx.Response) -> tuple[bytes, str | None]:
    body = bytearray()
    try:
        for piece in response.iter_raw():
            body += piece
            if len(body) > CAP:
                return bytes(body[:CAP]), TOO_LONG
    except httpx.HTTPError as error:
        return bytes(body), f"the answer broke off ({type(error).__name__})"
    packed = response.headers.get("content-encoding", "identity").strip().lower() != "identity"
    return _unpacked(bytes(body)) if packed and body else (bytes(body), None)


def _unpacked(body: bytes) -> tuple[bytes, str | None]:
    """Unpack what came packed by gzip, though it was not asked for.

    httpx would unpack all that there is, layer by layer: kilobytes can come to gigabytes.
    """
    unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # gzip or zlib, as its first bytes say
    try:
        found = unpacking.decompress(body, CAP + 1)
    except zlib.error:
        return body, "the answer is packed in a way that was not asked for"
    if len(found) > CAP:
        return found[:CAP], TOO_LONG
    return found, None if unpacking.eof else "the answer broke off (what it is packed in has no end)"


def again(deadline: Deadline, *kinds: type[Exception]) -> Retrying:
    """Try three times in quick succession while ``deadline`` allows, after failures of ``kinds`` only.

    For what is certainly not processed, such as a connection that could not be made.
    """
    return Retrying(
        retry=retry_if_exception_type(kinds),
        stop=stop_after_attempt(3) | stop_before_delay(deadline.rest()),
        wait=wait_random(0.05, 0.25),
        reraise=True,
    )
