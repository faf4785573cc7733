"""Logging in: by whom, how often, and where it leads."""

import logging
from collections.abc import Iterator
from threading import BoundedSemaphore

import pytest

from tests.conftest import clean_database, clean_redis
from tests.factories import opened
from tests.integration.web.visiting import PASSWORD, House, Visitor
from worker.ops.web import logins
from worker.ops.web.attempts import ADDRESS, FIRST, NAME, PAIR, Attempts


class Clock:
    """A clock that a test turns."""

    now = 1000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


@pytest.fixture(scope="module")
def built(request: pytest.FixtureRequest) -> Iterator[House]:
    """Give one page for all tests here."""
    with opened(clean_database(request)) as engine:
        yield House(engine, clean_redis(request))


@pytest.fixture
def clock() -> Clock:
    """Give a clock."""
    return Clock()


@pytest.fixture
def house(built: House, clock: Clock) -> House:
    """Give the page, which has not seen anybody yet."""
    built.guard.attempts = Attempts(clock)
    built.run("delete from sessions; delete from audit")
    return built


def test_a_password_is_guessed_twenty_times(
    house: House, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """After a few guesses nothing is checked any more, the right password neither, until time has passed."""
    visitor = house.visitor()
    with caplog.at_level(logging.DEBUG):
        answers = [visitor.log_in("oskar", f"wrong horse {number}") for number in range(20)]
    assert [answer.status_code for answer in answers] == [403] * PAIR + [429] * (20 - PAIR)
    right = visitor.log_in("oskar")
    assert right.status_code == 429
    assert right.headers["retry-after"] == str(int(FIRST))
    assert "vcc" not in visitor.cookies
    assert house.ask("select count(*) from audit where who = 'oskar' and action = 'login failed'") == PAIR
    assert "horse" not in caplog.text
    assert not house.ask("select count(*) from audit where to_jsonb(audit)::text like '%%horse%%'")
    clock.now += FIRST
    assert visitor.log_in("oskar").status_code == 303


def test_the_right_password_is_no_failure(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no session can be kept, or others are being looked at, whoever knows the password is not held up later."""
    visitor = house.visitor()
    house.run("alter table sessions rename to gone")
    assert [visitor.log_in("oskar").status_code for _ in range(PAIR + 1)] == [503] * (PAIR + 1)
    house.run("alter table gone rename to sessions")
    with monkeypatch.context() as patch:
        patch.setattr("worker.ops.web.logins._TOGETHER", BoundedSemaphore(1))
        patch.setattr("worker.ops.web.logins.PATIENCE", 0.01)
        with logins._TOGETHER:
            assert [visitor.log_in("oskar").status_code for _ in range(PAIR + 1)] == [429] * (PAIR + 1)
    assert visitor.log_in("oskar").status_code == 303


def test_who_guesses_holds_nobody_else_up(house: House) -> None:
    """While one name waits at one address, another comes in there, and the same one elsewhere."""
    guesser = house.visitor(client=("192.0.2.1", 1))
    for _ in range(PAIR + 1):
        guesser.log_in("oskar", "wrong horse")
    assert guesser.log_in("vera").status_code == 303
    assert house.visitor(client=("192.0.2.2", 1)).log_in("oskar").status_code == 303


@pytest.mark.parametrize(
    ("tries", "name", "address"), [(NAME, "oskar", "192.0.2.{}"), (ADDRESS, "name-{}", "192.0.2.1")]
)
def test_guessing_widely(house: House, tries: int, name: str, address: str) -> None:
    """One name from many addresses, and many names from one, are held up as well."""
    for number in range(tries):
        house.guard.attempts.admit(name.format(number), address.format(number))
    assert house.visitor(client=("192.0.2.1", 1)).log_in("oskar").status_code == 429


def test_the_same_is_said_of_every_mistake(house: House) -> None:
    """A name that nobody has is told from a wrong password by nothing; what stood there is not kept."""
    visitor = house.visitor()
    wrong, unknown = visitor.log_in("oskar", "wrong horse"), visitor.log_in("hunter2", "wrong horse")
    assert wrong.status_code == unknown.status_code == 403
    assert wrong.text.replace("oskar", "hunter2") == unknown.text
    assert house.ask("select string_agg(who, ' ' order by id) from audit") == "oskar unknown"


def test_a_login_opens_a_new_session(house: House) -> None:
    """A cookie that was there before the login is worth nothing after it, neither a planted one nor an earlier one."""
    planted = house.visitor(cookies={"vcc": "planted"})
    assert planted.log_in("oskar").status_code == 303
    assert planted.get("/").status_code == 200
    assert house.visitor(cookies={"vcc": "planted"}).get("/").status_code == 303
    visitor = house.operator()
    earlier = visitor.cookies["vcc"]
    visitor.known("vera")
    assert visitor.cookies["vcc"] != earlier
    assert house.visitor(cookies={"vcc": earlier}).get("/").status_code == 303
    assert house.ask("select string_agg(who, ' ' order by id) from audit") == "oskar oskar vera"


def test_a_login_needs_its_token(house: House) -> None:
    """No other page logs anybody in."""
    visitor = house.visitor()
    fields = {"name": "oskar", "password": PASSWORD}
    assert visitor.post("/login", data=fields).status_code == 403
    assert visitor.post("/login", data={**fields, "csrf": house.visitor().token("/login")}).status_code == 403
    assert house.ask("select count(*) from sessions") == 0


@pytest.mark.parametrize("back", ["/interactions?state=failed&route=a%20b", "/rejections/17", "/audit"])
def test_a_login_leads_to_what_was_asked_for(house: House, back: str) -> None:
    """Who followed a link is there after the login."""
    visitor = house.visitor()
    form = visitor.get(visitor.get(back).headers["location"]).text
    assert f'value="{back.replace("&", "&amp;")}"' in form
    assert visitor.log_in("vera", back=back).headers["location"] == back


@pytest.mark.parametrize(
    "back",
    [
        "https://evil.example", "//evil.example", "///evil.example", "/\\evil.example", "\\\\evil.example",
        "/\t/evil.example", "/\n/evil.example", " //evil.example", "javascript:alert(1)", "evil.example", "",
        "/login", "/logout", "/a\r\nSet-Cookie: a=b", "/" + "x" * 3000,
    ],
)  # fmt: skip
def test_a_login_leads_nowhere_else(house: House, back: str) -> None:
    """A link that would lead to another host after the login leads to the overview."""
    answer = house.visitor().log_in("vera", back=back)
    assert answer.headers["location"] == "/"
    assert "a" not in answer.cookies


def test_what_was_typed_is_shown_as_text(house: House) -> None:
    """A name and a way back that hold markup come back as text, and the password not at all."""
    planted = '"><script>alert(1)</script>'
    answer = house.visitor().submit(
        "/login", {"name": planted, "password": "hunter2" + planted, "next": planted}, found_on="/login"
    )
    assert answer.status_code == 403
    assert "<script>alert" not in answer.text
    assert "hunter2" not in answer.text


@pytest.mark.parametrize(
    "fields", [{}, {"name": "oskar"}, {"password": PASSWORD}, {"name": ["vera", "oskar"]}]
)
def test_half_a_form(house: House, fields: dict[str, str]) -> None:
    """A form without a name or a password is a mistake like any other."""
    assert house.visitor().submit("/login", fields, found_on="/login").status_code == 403


def test_without_users_there_is_no_login(house: House) -> None:
    """Whoever is on this machine is in already."""
    visitor = House(house.engine, "redis://127.0.0.1:1/0", web_users="").visitor()
    assert visitor.get("/login").headers["location"] == "/"
    assert visitor.submit("/login", {"name": "x"}, found_on="/").headers["location"] == "/"


def test_many_at_once_are_many(house: House) -> None:
    """Guesses that are made at the same time are each counted before any is checked."""
    tries = [house.guard.attempts.admit("oskar", "192.0.2.1") for _ in range(PAIR + 1)]
    assert tries == [0.0] * PAIR + [FIRST]


def test_the_form_has_what_browsers_want(house: House) -> None:
    """A password manager knows the form, and there is nothing on the page for who is not logged in."""
    text = Visitor.get(house.visitor(), "/login").text
    assert 'autocomplete="current-password"' in text
    assert 'href="/interactions"' not in text
