"""The benchmark's light API: to a client it is what the simulator is, and it counts what came."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from benchmarks import api as light_api
from benchmarks.api import Book, Light

from worker.domain.outcome import Accepted
from worker.settings import Settings
from worker.simulator.run import Background
from worker.vonage.invoke import Api
from worker.vonage.payload import encode, interaction


@pytest.fixture
def light() -> Iterator[light_api.Api]:
    """Give the light API, in its own process."""
    with light_api.light() as found:
        found.reset(0)
        yield found


def client(url: str) -> Api:
    """Make the worker's own client."""
    return Api(Settings(api_url=url, auth_url=url, client_id="simulator", client_secret="simulator"))


def body(count: int, words: str = "") -> bytes:
    """Make a call of so many requests."""
    request = {
        "linkeddata": [{"type": "name", "value": words}],
        "routingdata": {"interactiontype": "nonlive"},
    }
    return encode("", [interaction("dispatch", f"r{i}", f"e{i}", "R", request) for i in range(count)])


def test_it_answers_as_the_simulator_does(light: light_api.Api, simulator: Background) -> None:
    """Token and call, through the worker's own client: status and body are the same."""
    answers = []
    for url in (light.url, simulator.url):
        found = client(url)
        outcome = found.invoke(body(3))
        found.close()
        assert isinstance(outcome, Accepted)
        answers.append((outcome.answer.status, outcome.answer.body))
    assert answers[0] == answers[1]


def test_it_counts_calls_and_requests(light: light_api.Api) -> None:
    """Large and small bodies, one after the other on a kept connection; a reset begins anew."""
    found = client(light.url)
    for count in (1, 300, 2):
        assert isinstance(found.invoke(body(count, "w" * 200)), Accepted)
    assert light.count() == {"calls": 3, "requests": 303, "busiest": 1}
    assert light.book()["starts"] == sorted(light.book()["starts"])
    light.reset(0)
    assert light.count() == {"calls": 0, "requests": 0, "busiest": 0}
    found.close()


def test_it_answers_calls_side_by_side(light: light_api.Api) -> None:
    """Calls that wait for their answers do not wait for each other."""
    light.reset(0.2)
    found = client(light.url)
    with ThreadPoolExecutor(4) as threads:
        outcomes = list(threads.map(found.invoke, [body(1)] * 4))
    assert all(isinstance(outcome, Accepted) for outcome in outcomes)
    assert light.count()["busiest"] > 1
    found.close()


def test_it_keeps_bodies_when_told_to(light: light_api.Api) -> None:
    """They are what was sent."""
    light.reset(0, keep=True)
    found = client(light.url)
    found.invoke(body(2, "Grüße"))
    assert [kept.encode() for kept in light.book()["kept"]] == [body(2, "Grüße")]
    found.close()


def test_it_takes_calls_however_they_are_cut() -> None:
    """Byte by byte, and two at once, each is answered once."""
    call = b"POST /interactions/Invoke HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body(2)), body(2))
    book, answers = Book(), Answers()
    connection = Light([book])
    connection.connection_made(answers)
    for byte in call:
        connection.data_received(bytes([byte]))
    connection.data_received(call + call)
    assert book.count() == {"calls": 3, "requests": 6, "busiest": 1}
    assert len(answers.written) == 3


def test_it_knows_nothing_else() -> None:
    """Another path is answered by 404, so that a wrong one is no measurement."""
    answers = Answers()
    connection = Light([Book()])
    connection.connection_made(answers)
    connection.data_received(b"GET /elsewhere HTTP/1.1\r\n\r\n")
    head, _, said = answers.written[0].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 ")
    assert "message" in msgspec.json.decode(said)


class Answers:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, answer: bytes) -> None:
        """Keep it."""
        self.written.append(answer)
