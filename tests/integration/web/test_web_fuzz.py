"""Whatever a browser sends, the page answers in a sentence, and what is planted stays text."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import clean_database, clean_redis
from tests.factories import Store, dispatch, opened, release
from tests.integration.web.visiting import House, Visitor
from worker.domain.outcome import Refused

PLANTED = "<script>alert(1)</script>"
BREAKING = f"\"'>{PLANTED}<img src=x onerror=alert(1)>"

PATIENTLY = settings(
    max_examples=80,
    derandomize=True,
    database=None,
)

FIELDS = [
    "state", "route", "provider", "lane", "error", "externalid", "age", "older", "before", "next", "id", "what",
    "confirm", "created_after", "created_before", "reason", "job", "requestid", "name", "password", "csrf", "odd",
]  # fmt: skip

VALUES = st.one_of(
    st.sampled_from(
        [
            "", "0", "1", "-1", "2", "9223372036854775807", "9223372036854775808", "1e9", "\u0661", "yes",
            "chosen", "all", "failed", "release_failed", "pending", "live", "backlog", "1h", "7d", "36500d",
            "99999999d", "0s", "R",
            "2026-01-01T00:00:00+00:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "2026-01-01",
            PLANTED, BREAKING, "javascript:alert(1)", "{{ 7 * 7 }}", "%(id)s", "%", "_", "\\", "'", '"', "a" * 5000,
            '{"externalid": "mended", "route": "R"}', '{"externalid": 1', "[" * 300, "\x01\x1b[31m\u202e", "\U0001f600",
        ]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)  # fmt: skip
PAIRS = st.lists(st.tuples(st.sampled_from(FIELDS), VALUES), max_size=6)
RAW = st.binary(max_size=40)
METHODS = st.sampled_from(["GET"] * 4 + ["HEAD", "POST", "PUT", "DELETE", "OPTIONS", "X"])
HEADERS = st.dictionaries(
    st.sampled_from(["host", "origin", "sec-fetch-site", "cookie", "content-type", "content-length", "accept",
                     "x-forwarded-for", "authorization", "range", "if-none-match", "if-modified-since"]),
    st.one_of(
        st.sampled_from(["", "vcc=x", "vcc_flash=x.y", "bytes=0-", "bytes=-1,5-1", "[::1", "a" * 9000, PLANTED]),
        st.binary(max_size=20).map(lambda raw: raw.replace(b"\r", b"").replace(b"\n", b"")),
    ),
    max_size=2,
)  # fmt: skip


def odd_segment() -> st.SearchStrategy[str]:
    """Make a part of a path that nobody expects."""
    numbers = ["1", "2", "3", "4", "0", "-1", "9" * 19, "9" * 400, "1.5", "\u0662", " 1", "1 ", ".."]
    texts = ["", "x", "style.css", "..%2f..%2fetc%2fpasswd", "%2e%2e", quote(BREAKING), "%00", "%", "%ff"]
    return st.sampled_from(numbers + texts) | st.text(
        st.characters(exclude_categories=["Cs"]), max_size=8
    ).map(quote)


@pytest.fixture(scope="module")
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    """Give a page over a database in which everything that comes from outside is markup."""
    with opened(clean_database(request)) as engine:
        store = Store(engine)
        words = [{"type": "subject", "value": BREAKING}]
        for number in range(3):
            store.record(dispatch(f"{number}{BREAKING}", route=BREAKING, provider=BREAKING, linkeddata=words))
        store.deliver(Refused, status=400)
        store.record(dispatch("fine", linkeddata=words), dispatch("gone"))
        store.deliver()
        store.record(release("gone"), release("early"))
        given = {"it": BREAKING}
        with engine.begin() as conn:
            for statement in (
                "update interactions set last_error = %(it)s where state = 'failed'",
                "update invocations set error = %(it)s, answer = %(it)s",
                "insert into events (interaction_id, at, event, detail) values (1, now(), 'noted', %(it)s)",
                "insert into routes (route, refused, held_at, message) values (%(it)s, 20, now(), %(it)s)",
                "insert into providers values (%(it)s, now() + interval '1 day', 3, %(it)s)",
                "insert into rejections (at, door, place, reason, job)"
                " select now(), %(it)s, %(it)s, %(it)s, convert_to(%(it)s, 'UTF8') from generate_series(1, 3)",
                "insert into audit (who, action, detail) values (%(it)s, %(it)s, %(it)s)",
                "insert into imports (who, source, route) values (%(it)s, %(it)s, %(it)s)",
                "update gate set paused_at = now(), pause_reason = %(it)s",
            ):
                conn.exec_driver_sql(statement, given)
        yield House(engine, clean_redis(request))


@pytest.fixture(scope="module")
def visitors(house: House) -> list[Visitor]:
    """Give the browsers of an operator, of a viewer and of nobody."""
    known = [house.operator(), house.viewer()]
    return [*known, house.visitor()]


def paths(house: House) -> list[str]:
    """Tell all paths of the application, with a gap where one takes something."""
    inner: Any = house.guard.app
    return sorted({re.sub("{[^}]*}", "{}", route.path) for route in inner.routes if route.path != "/logout"})


def fine(answer: Any) -> None:
    """Hold an answer against what may never be in one."""
    shown = answer.request.method, answer.request.url
    assert answer.status_code < 500, shown
    assert "Traceback" not in answer.text, shown
    if "html" in answer.headers.get("content-type", ""):
        assert PLANTED not in answer.text, shown
        assert "<img src=x" not in answer.text, shown
        assert not re.search(r"""(href|src|action)=["']?\s*javascript:""", answer.text), shown
        assert not re.search(r"\sstyle=|<[^>]*\son\w+=\"", answer.text.replace("&", "")), shown
    assert "default-src 'none'" in answer.headers["content-security-policy"], shown


@pytest.mark.parametrize("who", [0, 1])
def test_everything_that_came_from_outside_is_text(house: House, visitors: list[Visitor], who: int) -> None:
    """Where markup is planted in every text there is, each page shows it as text."""
    visitor = visitors[who]
    seen = ""
    for path in paths(house):
        for number in ("1", "2", "4", "5"):
            answer = visitor.get(path.format(number))
            fine(answer)
            seen += answer.text
    assert seen.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 20
    retry = visitor.submit(
        "/retry", {"what": "all", "route": BREAKING, "externalid": BREAKING}, found_on="/audit"
    )
    assert retry.status_code == (200, 403)[who]
    fine(retry)


@PATIENTLY
@given(st.data())
def test_odd_addresses(house: House, visitors: list[Visitor], data: st.DataObject) -> None:
    """Whatever path, query, method and headers there are, no page falls over."""
    visitor = data.draw(st.sampled_from(visitors))
    path = data.draw(st.sampled_from([*paths(house), "/{}", "/static/{}", "/interactions/{}/x"]))
    path = path.format(*(data.draw(odd_segment()) for _ in range(path.count("{}"))))
    query = data.draw(
        PAIRS.map(lambda pairs: "&".join(f"{quote(name)}={quote(value)}" for name, value in pairs))
        | RAW.map(quote)
    )
    method, headers = data.draw(METHODS), data.draw(HEADERS)
    fine(visitor.request(method, f"{path}?{query}", headers=headers))


@PATIENTLY
@given(st.sampled_from(["/interactions"] * 3 + ["/find", "/rejections", "/audit", "/login"]), PAIRS)
def test_odd_filters(visitors: list[Visitor], path: str, pairs: list[tuple[str, str]]) -> None:
    """Whatever is filtered by, the list answers."""
    fine(visitors[0].get(path, params=pairs))


@PATIENTLY
@given(st.data())
def test_odd_forms(house: House, visitors: list[Visitor], tokens: list[str], data: st.DataObject) -> None:
    """Whatever stands in a form with its token, and whatever is sent in the place of one, no page falls over."""
    which = data.draw(st.sampled_from([0, 0, 0, 1, 2]))
    posts = [path for path in sorted(set(house.routes("POST"))) if path != "/logout"]
    path = data.draw(st.sampled_from(posts)).replace(
        "1", data.draw(st.sampled_from(["1", "2", "3", "77", "x"]))
    )
    form = [("csrf", tokens[which]), *data.draw(PAIRS)]
    encoded = "&".join(f"{quote(name)}={quote(value)}" for name, value in form).encode()
    content = data.draw(st.sampled_from([encoded] * 5) | RAW)
    given = {"content-type": "application/x-www-form-urlencoded", **data.draw(st.just({}) | HEADERS)}
    fine(visitors[which].post(path, content=content, headers=given))


@pytest.fixture(scope="module")
def tokens(visitors: list[Visitor]) -> list[str]:
    """Give each browser's token."""
    operator, viewer, nobody = visitors
    return [operator.token("/"), viewer.token("/"), nobody.token("/login")]
