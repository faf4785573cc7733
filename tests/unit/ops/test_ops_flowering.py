"""Who comes in at Flower's door."""

from base64 import b64encode
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from worker.ops.flowering import check, refusal


def options(**given: Any) -> Any:
    """Make Flower's options: on loopback, without a password."""
    return SimpleNamespace(
        **{"basic_auth": None, "auth": "", "address": "127.0.0.1", "unix_socket": "", **given}
    )


def request(path: str = "/", host: str = "localhost:5555", **headers: str) -> HTTPServerRequest:
    """Make a request."""
    return HTTPServerRequest(
        start_line=RequestStartLine("GET", path, "HTTP/1.1"), headers=HTTPHeaders({"Host": host, **headers})
    )


def basic(login: str) -> str:
    """Write a login as a browser does."""
    return "Basic " + b64encode(login.encode()).decode()


@pytest.mark.parametrize(
    "given",
    [
        {"address": ""},
        {"address": "0.0.0.0"},
        {"address": "flower.example"},
        {"address": "::"},
        {"unix_socket": "/run/flower.sock"},
        {"basic_auth": ["word"]},
        {"basic_auth": ["me:"]},
        {"basic_auth": [":word"]},
        {"basic_auth": [""]},
        {"basic_auth": ["me:with", "comma"]},
        {"basic_auth": ["me:wörd"]},
    ],
    ids=str,
)
def test_a_door_that_is_open_or_shut_for_all_is_refused(given: dict[str, Any]) -> None:
    """Where anybody could come in, or a password can't be meant, Flower does not start, and no password is repeated."""
    with pytest.raises(typer.BadParameter, match="FLOWER_BASIC_AUTH") as refused:
        check(options(**given))
    assert "word" not in str(refused.value).replace("user:password", "")


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"address": "::1"},
        {"address": "localhost"},
        {"address": "0.0.0.0", "basic_auth": ["me:a:b", "you:x"]},
        {"address": "0.0.0.0", "auth": ".*@example.test"},
    ],
    ids=str,
)
def test_a_door_with_a_lock_or_at_home_is_fine(given: dict[str, Any]) -> None:
    """This machine needs no password; with one, or with OAuth, Flower may listen anywhere."""
    check(options(**given))


@pytest.mark.parametrize(
    "header",
    ["", "Basic", "Basic ÿ", "Basic !", basic("me:wrong"), basic("me"), basic("me:wörd"), "Bearer x"],
)
def test_who_does_not_know_the_password_is_asked_for_it(header: str) -> None:
    """Whatever is sent in its place; only whether Flower lives may be asked."""
    locked = options(basic_auth=["me:word", "you:other"])
    assert refusal(locked, request("/metrics", Authorization=header)) == 401
    assert refusal(locked, request("/healthcheck", Authorization=header)) is None
    assert refusal(locked, request(Authorization=basic("you:other"))) is None


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost:5555", "", None),
        ("127.0.0.1:5555", "http://127.0.0.1:5555", None),
        ("[::1]:5555", "", None),
        ("evil.example:5555", "", 403),  # a name that was made to lead here
        ("localhost:5555", "http://evil.example", 403),
        ("localhost:5555", "null", 403),
        ("[", "", 403),
    ],
)
def test_without_a_password_no_foreign_page_may_ask(host: str, origin: str, status: int | None) -> None:
    """A browser of this machine asks for its user, not for any page that it shows."""
    assert refusal(options(), request(host=host, Origin=origin)) == status
