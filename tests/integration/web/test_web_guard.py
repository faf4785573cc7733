"""Who may do what on the page, asked over the whole application."""

import re
from collections.abc import Iterator

import pytest
from httpx import Response
from pydantic import SecretStr

from tests.factories import opened
from tests.integration.web.visiting import HERE, OSKAR, PASSWORD, THERE, VERA, House, Visitor
from worker.ops.web import guard, users
from worker.ops.web.guard import HEADERS

FORM = {"content-type": "application/x-www-form-urlencoded"}
WITHOUT_LOGIN = {"/login", "/metrics", "/healthz", "/readyz"}


@pytest.fixture
def house(database_url: str, redis_url: str) -> Iterator[House]:
    """Give a page with a viewer and an operator."""
    with opened(database_url) as engine:
        yield House(engine, redis_url)


@pytest.fixture
def open_house(database_url: str, redis_url: str) -> Iterator[House]:
    """Give a page without users."""
    with opened(database_url) as engine:
        yield House(engine, redis_url, web_users="")


# --- who is it ------------------------------------------------------------------------------------


def test_every_page_asks_for_a_login(house: House) -> None:
    """Without a login each page, also one that is not there, leads to the login, and from there back."""
    visitor = house.visitor()
    paths = [*set(house.routes("GET")) - WITHOUT_LOGIN, "/nothing", "/interactions/"]
    assert len(paths) > 8
    for path in paths:
        answer = visitor.get(path)
        assert (answer.status_code, answer.headers["location"].split("?")[0]) == (303, "/login"), path
        assert "vera" not in answer.text
    assert visitor.get("/interactions?state=failed").headers["location"] == (
        "/login?next=/interactions%3Fstate%3Dfailed"
    )


def test_a_change_asks_for_a_login(house: House) -> None:
    """Without a login no form does anything, whatever token it has."""
    visitor = house.visitor()
    for path in set(house.routes("POST")) - {"/login", "/logout"}:
        answer = visitor.submit(path, {"reason": "x"}, found_on="/login")
        assert (answer.status_code, answer.headers["location"]) == (303, "/login"), path
    assert house.is_untouched()


def test_a_viewer_changes_nothing(house: House) -> None:
    """Each form, whatever it is for, is refused to who may only look; also one that is added tomorrow."""
    visitor = house.viewer()
    for path in set(house.routes("POST")) - {"/login", "/logout"}:
        answer = visitor.submit(path, {"reason": "x", "confirm": "yes"}, found_on="/")
        assert answer.status_code == 403, path
        assert "operator" in answer.text
    assert house.is_untouched()


def test_an_operator_may(house: House) -> None:
    """An operator's own form is done, and stands in the audit under the operator's name."""
    assert house.operator().submit("/pause", {"reason": "lunch"}, found_on="/").status_code == 303
    assert house.ask("select pause_reason from gate") == "lunch"
    assert house.ask("select who from audit where action = 'pause'") == "oskar"


# --- did they mean it -----------------------------------------------------------------------------


def test_the_token_of_somebody_else(house: House) -> None:
    """A token that another session's page shows, or an earlier one of the same user, is worth nothing."""
    other, visitor = house.operator().token("/"), house.operator()
    for token in (other, house.visitor().token("/login")):
        assert visitor.post("/pause", data={"csrf": token, "reason": "x"}).status_code == 403
    assert house.is_untouched()


def test_without_users_a_form_needs_its_token_too(open_house: House) -> None:
    """Whoever is on this machine may change everything; a page on the web that they look at may not."""
    visitor = open_house.visitor()
    assert visitor.post("/pause", data={"reason": "x"}).status_code == 403
    assert open_house.is_untouched()
    assert visitor.submit("/pause", {"reason": "x"}, found_on="/").status_code == 303
    assert open_house.ask("select who from audit") == "local"


def test_without_users_no_other_name_leads_here(open_house: House) -> None:
    """A name on the web that is made to lead to this machine is answered by no page, nor is a proxy."""
    for name in ("rebound.example", "127.0.0.1.rebound.example", "localhost.evil.example", "0x7f.1.example"):
        for path in ("/", "/login", "/metrics", "/static/style.css"):
            assert open_house.visitor(f"http://{name}:8899").get(path).status_code == 403, name
    for header in ("X-Forwarded-For", "X-Forwarded-Proto", "Forwarded", "Via"):
        assert open_house.visitor().get("/audit", headers={header: "x"}).status_code == 403, header
    for name in ("localhost", "localhost:8899", "127.0.0.1:8899", "127.0.0.2", "[::1]:8899"):
        assert open_house.visitor(f"http://{name}").get("/audit").status_code == 200, name


# --- sessions that are over -----------------------------------------------------------------------


def test_a_session_ends_by_itself(house: House) -> None:
    """After its time a session is worth nothing, to look or to change."""
    visitor = house.operator()
    hours = house.ask("select extract(epoch from expires_at - created_at) / 3600 from sessions")
    assert hours == 12
    token = visitor.token("/")
    house.run("update sessions set expires_at = now()")
    assert visitor.get("/").status_code == 303
    assert visitor.post("/pause", data={"csrf": token, "reason": "x"}).headers["location"] == "/login"
    assert house.is_untouched()


def test_a_session_ends_by_logging_out(house: House) -> None:
    """A cookie that was copied before is worth nothing after the logout."""
    visitor = house.operator()
    copied = visitor.cookies["vcc"]
    assert visitor.submit("/logout", found_on="/").headers["location"] == "/login"
    assert "vcc" not in visitor.cookies
    assert house.visitor(cookies={"vcc": copied}).get("/").status_code == 303
    assert house.ask("select count(*) from sessions") == 0
    assert house.ask("select who from audit where action = 'logout'") == "oskar"


def test_nobody_is_logged_out_by_another_page(house: House) -> None:
    """Logging out needs its token as well."""
    visitor = house.viewer()
    assert visitor.post("/logout", data={"csrf": "0"}).status_code == 403
    assert visitor.get("/").status_code == 200


@pytest.mark.parametrize(
    "later",
    [
        VERA,
        f"{VERA} {users.entry('oskar', 'operator', PASSWORD, (users.LEAST, 8, 1))}",
        f"{VERA} {OSKAR.replace('operator', 'viewer')}",
    ],
    ids=["removed", "password", "role"],
)
def test_a_changed_user_is_logged_out(house: House, redis_url: str, later: str) -> None:
    """Whose entry is taken away or written anew has to log in again; others stay."""
    oskar, vera = (house.visitor().known(name).cookies["vcc"] for name in ("oskar", "vera"))
    changed = House(house.engine, redis_url, web_users=later)
    assert changed.visitor(cookies={"vcc": oskar}).get("/").status_code == 303
    assert changed.visitor(cookies={"vcc": vera}).get("/").status_code == 200
    assert house.visitor(cookies={"vcc": oskar}).get("/").status_code == 303  # the entry put back


def test_the_table_opens_no_session(house: House) -> None:
    """Who reads the sessions' table finds nothing there to come in with."""
    visitor = house.operator()
    kept = bytes(house.ask("select token from sessions"))
    assert visitor.cookies["vcc"].encode() not in kept
    for guess in (kept.hex(), kept.decode("latin-1").encode("unicode_escape").decode()):
        assert house.visitor(headers={"cookie": f"vcc={guess}"}).get("/").status_code == 303


def test_the_database_is_away(house: House) -> None:
    """Whoever is logged in is told that the database is away, and is let in by nobody meanwhile."""
    visitor, stranger = house.operator(), house.visitor()
    house.run("alter table sessions rename to gone")
    for path in ("/", "/audit", "/nothing"):
        assert visitor.get(path).status_code == 503
    assert stranger.get("/").status_code == 303
    assert stranger.log_in("oskar").status_code == 503
    house.run("alter table gone rename to sessions")
    assert visitor.get("/").status_code == 200


# --- what each answer carries ---------------------------------------------------------------------


def has_headers(answer: Response, path: str) -> bool:
    """Whether an answer has all that each has."""
    kept = answer.headers.get("cache-control") == "no-store" or path.startswith("/static/")
    return kept and all(answer.headers.get(name) == value for name, value in HEADERS.items())


def test_headers_are_on_every_answer(house: House) -> None:
    """Pages, refusals, errors, static files and what machines ask for all say how a browser is to treat them."""
    operator, stranger = house.operator(), house.visitor()
    paths = [*house.routes("GET"), "/static/style.css", "/static/nothing", "/nothing", "/interactions/x"]
    for visitor in (operator, stranger):
        for path in paths:
            for answer in (visitor.get(path), visitor.head(path), visitor.post(path), visitor.put(path)):
                assert has_headers(answer, path), (path, answer.request.method)
                assert "strict-transport-security" not in answer.headers
                assert "server" not in answer.headers
    assert has_headers(operator.get("/interactions?state=nonsense"), "/")
    assert has_headers(operator.get("/?%ff"), "/")


def test_headers_are_on_an_unexpected_error(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what should not have happened is answered like everything else, in a sentence without its text."""

    def broken(*_: object) -> None:
        raise RuntimeError("customers' words")

    monkeypatch.setattr("worker.store.audit.newest", broken)
    visitor = Visitor(house.app, base_url=HERE, raise_server_exceptions=False, follow_redirects=False)
    answer = visitor.known("vera").get("/audit")
    assert answer.status_code == 500
    assert "words" not in answer.text
    assert has_headers(answer, "/audit")


def test_behind_tls(house: House) -> None:
    """Over TLS cookies go nowhere else and no other host can set them, and the browser stays with TLS."""
    visitor = house.visitor(THERE)
    answers = [visitor.get("/login"), visitor.log_in("oskar"), visitor.submit("/pause", found_on="/")]
    cookies = [cookie for answer in answers for cookie in answer.headers.get_list("set-cookie")]
    assert [cookie.split("=")[0] for cookie in cookies] == [
        "__Host-vcc_visit", "__Host-vcc", "__Host-vcc_visit", "vcc_flash"
    ]  # fmt: skip
    for cookie in cookies:
        assert re.search("; Secure", cookie, re.IGNORECASE), cookie
        assert re.search("; HttpOnly", cookie, re.IGNORECASE), cookie
        assert re.search("; SameSite=lax", cookie, re.IGNORECASE), cookie
        assert re.search("; Path=/(;|$)", cookie, re.IGNORECASE), cookie
        assert "domain" not in cookie.lower()
    assert all(answer.headers["strict-transport-security"] == guard.HSTS for answer in answers)


def test_without_tls(house: House) -> None:
    """Without TLS cookies are as closed as they can be."""
    answer = house.visitor().log_in("oskar")
    (cookie,) = [found for found in answer.headers.get_list("set-cookie") if found.startswith("vcc=")]
    parts = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert parts == {"httponly", "path=/", "samesite=lax"}


def test_machines_get_no_cookie(house: House) -> None:
    """What Prometheus and an orchestrator ask for, and static files, set nothing."""
    for path in ("/metrics", "/healthz", "/readyz", "/static/style.css"):
        assert "set-cookie" not in house.visitor().get(path).headers


# --- metrics --------------------------------------------------------------------------------------


def near(house: House, **given: str) -> Visitor:
    """Open a connection from this machine."""
    return house.visitor(client=("127.0.0.1", 50000), **given)


def test_metrics_without_a_token_are_for_this_machine(house: House) -> None:
    """Another machine, a proxy on this one, and a page with a name of its own are refused."""
    assert near(house).get("/metrics").status_code == 200
    assert house.visitor(client=("192.0.2.1", 50000)).get("/metrics").status_code == 403
    for header in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"):
        assert near(house).get("/metrics", headers={header: "for=192.0.2.1"}).status_code == 403, header
    assert near(house, base_url="http://rebound.example").get("/metrics").status_code == 403


def test_metrics_with_a_token(house: House, redis_url: str) -> None:
    """Who has the token may ask from anywhere, and nobody else, from this machine neither."""
    told = House(house.engine, redis_url, metrics_token=SecretStr("m-token"))
    far = told.visitor(client=("192.0.2.1", 50000))
    assert far.get("/metrics", headers={"Authorization": "Bearer m-token"}).status_code == 200
    for value in ("", "Bearer", "Bearer m-toke", "Bearer m-tokenn", "Basic m-token", "Bearer \xff"):
        given = {"Authorization": value.encode("latin-1")}
        assert near(told).get("/metrics", headers=given).status_code == 401, value


# --- what the next page says ----------------------------------------------------------------------


def test_a_word_after_a_change_is_said_once(house: House) -> None:
    """What was done is said on the next page, and not on the one after."""
    visitor = house.operator()
    visitor.submit("/pause", found_on="/")
    assert "Paused: no call" in visitor.get("/").text
    assert "Paused: no call" not in visitor.get("/").text
