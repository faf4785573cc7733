"""What is refused before it reaches a page: forged, foreign, odd or too large."""

from collections.abc import Iterator

import anyio
import pytest
from starlette.websockets import WebSocketDisconnect

from tests.conftest import clean_database, clean_redis
from tests.factories import opened
from tests.integration.web.visiting import HERE, House, Visitor
from worker.ops.web import forms, guard

FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    """Give one page for all tests here; what is refused leaves nothing behind."""
    with opened(clean_database(request)) as engine:
        yield House(engine, clean_redis(request))


@pytest.fixture(scope="module")
def oskar(house: House) -> Visitor:
    """Give the browser of an operator."""
    return house.operator()


@pytest.fixture(autouse=True)
def _in_peace(house: House) -> Iterator[None]:
    """See to it that each test finds the house untouched."""
    yield
    house.run("update gate set paused_at = null, pause_reason = null; delete from audit")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
def test_other_methods(house: House, oskar: Visitor, method: str) -> None:
    """What is neither looking nor a form is answered by nothing, logged in or not."""
    for visitor in (house.visitor(), oskar):
        answer = visitor.request(method, "/pause", content=b"reason=x", headers=FORM)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")
    assert house.is_untouched()


@pytest.mark.parametrize(
    "fields", [{}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": ["a", "b"]}, {"csrf": "ß"}]
)
def test_a_forged_form(house: House, oskar: Visitor, fields: dict[str, str]) -> None:
    """A form without its token, or with a made-up one, is refused."""
    answer = oskar.post("/pause", data={"reason": "x", **fields})
    assert answer.status_code == 403
    assert house.is_untouched()


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "null"},
        {"origin": ""},
    ],
    ids=str,
)
def test_another_page_sends_a_form(house: House, oskar: Visitor, headers: dict[str, str]) -> None:
    """A form that the browser says comes from elsewhere is refused even with its token; from here it is not."""
    assert oskar.submit("/pause", {"reason": "x"}, found_on="/", headers=headers).status_code == 403
    assert house.is_untouched()
    own = {"sec-fetch-site": "same-origin", "origin": HERE}
    assert oskar.submit("/pause", {"reason": "x"}, found_on="/", headers=own).status_code == 303


@pytest.mark.parametrize("host", ["", "[", "a b", "evil/..", "x@y", "a:b:c", "h:999999"])
def test_a_host_that_can_not_be_read(house: House, host: str) -> None:
    """What is no name is refused in a sentence; but who only asks whether this lives needs none."""
    answer = house.visitor().get("/login", headers={"host": host})
    assert answer.status_code == 400
    assert "Host" in answer.text
    assert house.visitor().get("/healthz", headers={"host": host}).status_code == 200


def test_a_form_that_is_too_large(oskar: Visitor) -> None:
    """More than a megabyte is refused, whether the browser says so before or sends it in pieces without a word."""
    piece = b"x" * 65536
    assert oskar.post("/pause", content=b"a=" + piece * 16, headers=FORM).status_code == 413
    assert oskar.post("/pause", content=(piece for _ in range(17)), headers=FORM).status_code == 413
    claimed = {**FORM, "content-length": "9" * 30}
    assert oskar.post("/pause", content=b"", headers=claimed).status_code == 413


def test_a_form_just_small_enough(oskar: Visitor) -> None:
    """A megabyte in pieces is read."""
    start = f"csrf={oskar.token('/')}&reason=".encode()
    rest = forms.LARGEST - len(start)
    pieces = iter([start, b"x" * (rest // 2), b"x" * (rest - rest // 2)])
    assert oskar.post("/pause", content=pieces, headers=FORM).status_code == 303


@pytest.mark.parametrize(
    "kind", ["", "application/json", "multipart/form-data; boundary=x", "text/plain",
             "application/x-www-form-urlencoded; charset=utf-16"]
)  # fmt: skip
def test_a_form_of_another_kind(oskar: Visitor, kind: str) -> None:
    """What is no form of a browser's is refused."""
    answer = oskar.post("/pause", content=b"reason=x", headers={"content-type": kind})
    assert answer.status_code == 415


@pytest.mark.parametrize(
    "content", [b"a=%zz", b"a=%f", b"%", b"a=%ff", b"a=\xff", b"a=%00", b"a=\0", b"a&" * 3000]
)
def test_a_form_that_can_not_be_read(oskar: Visitor, content: bytes) -> None:
    """Half an escape, bytes that are no UTF-8, a NUL, and thousands of fields are refused."""
    assert oskar.post("/pause", content=content, headers=FORM).status_code == 400


@pytest.mark.parametrize(
    "address", ["/?a=%ff", "/?a=%zz", "/interactions?route=%00", "/%00", "/%ff", "/static/%00"]
)
def test_an_address_that_can_not_be_read(oskar: Visitor, address: str) -> None:
    """The same in an address."""
    assert oskar.get(address).status_code == 400


def test_a_form_that_never_ends(house: House, oskar: Visitor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who opens a form and sends nothing holds nothing up for long."""
    monkeypatch.setattr(guard, "PATIENCE", 0.01)
    sent = []

    async def silent() -> dict[str, str]:
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: dict[str, object]) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"cookie", f"vcc={oskar.cookies['vcc']}".encode())]
    headers += [(name.encode(), value.encode()) for name, value in FORM.items()]
    scope = {"type": "http", "method": "POST", "path": "/pause", "query_string": b"", "headers": headers}
    anyio.run(house.guard, {**scope, "scheme": "http", "raw_path": b"/pause"}, silent, send)
    assert sent[0]["status"] == 408


@pytest.mark.parametrize("value", ["aGVsbG8=", "aGVsbG8=.00", "x.y.z", ".", "\xff", "=", '"\\377"'])
def test_nobody_else_puts_words_there(house: House, value: str) -> None:
    """A word that this page did not sign is not said."""
    visitor = house.visitor(headers={"cookie": f"vcc_flash={value}".encode("latin-1")})
    answer = visitor.get("/login")
    assert answer.status_code == 200
    assert 'class="flash"' not in answer.text


def test_websockets_are_closed(oskar: Visitor) -> None:
    """The page speaks HTTP only, and refuses the rest."""
    with pytest.raises(WebSocketDisconnect), oskar.websocket_connect("/"):
        pass
