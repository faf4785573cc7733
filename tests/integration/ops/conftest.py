"""The command line in this process: on a database and a Redis of its own, with the simulator as the API."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kombu import pools
from sqlalchemy import Engine

from worker import app as process
from worker import settings
from worker.delivery.deliver import Bench, deliver
from worker.ops.cli import run
from worker.simulator.run import Background
from worker.store import queries
from worker.store.database import connect
from worker.vonage.invoke import Api


@dataclass(frozen=True)
class Result:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its one line of JSON."""
        return msgspec.json.decode(self.out)


Vcc = Callable[..., Result]


@pytest.fixture
def vcc(capsys: pytest.CaptureFixture[str]) -> Vcc:
    """Give the command line; whatever happens, nobody sees a traceback."""

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err, err
        return Result(code, out, err)

    return call


@pytest.fixture
def house(
    database_url: str, redis_url: str, simulator: Background, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Background]:
    """Set everything that the commands need, and give the simulator."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", redis_url)
    for name in ("VCC_API_URL", "VCC_AUTH_URL"):
        monkeypatch.setenv(name, simulator.url)
    for name in ("VCC_CLIENT_ID", "VCC_CLIENT_SECRET"):
        monkeypatch.setenv(name, "simulator")
    with own_broker(redis_url):
        yield simulator


@contextmanager
def own_broker(redis_url: str) -> Iterator[None]:
    """Let this process's Celery app send there: it has read its settings long ago."""
    process.forget_resources()
    before = process.app.conf.broker_url
    _send_to(redis_url)
    try:
        yield
    finally:
        _send_to(before)
        process.forget_resources()


def _send_to(url: str) -> None:
    process.app.conf.broker_url = url
    pools.reset()
    process.app._pool = None
    process.app.amqp._producer_pool = None


@pytest.fixture
def engine(house: Background, database_url: str) -> Iterator[Engine]:
    """Give the database that the commands work on."""
    engine = connect(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def stats(engine: Engine) -> Callable[[], dict[str, Any]]:
    """Give what ``vcc stats`` counts."""

    def read() -> dict[str, Any]:
        with engine.connect() as conn:
            return queries.stats(conn)

    return read


@pytest.fixture
def delivering(engine: Engine) -> Callable[[], AbstractContextManager[None]]:
    """Give what makes calls for as long as it is entered, as a worker would."""

    @contextmanager
    def working() -> Iterator[None]:
        stop = threading.Event()
        api = Api(settings.load())
        bench = Bench(engine, api, settings.load(), lambda: None)

        def work() -> None:
            while not stop.wait(0.05):
                deliver(bench, go_on=lambda: not stop.is_set())

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            api.close()

    return working


@pytest.fixture
def send(
    delivering: Callable[[], AbstractContextManager[None]], stats: Callable[[], Any]
) -> Callable[[], None]:
    """Give what sends everything that is due."""
    from tests.waiting import until  # noqa: PLC0415 - a fixture's own need

    def all_due() -> None:
        with delivering():
            until(lambda: not {"pending", "releasing"} & {s for s, n in stats()["states"].items() if n})

    return all_due


@pytest.fixture
def backlog(tmp_path: Path) -> Path:
    """Give an mbox of 30 emails: 24 of them new, 3 duplicates, 3 that can't be imported."""
    from worker.intake.sources.generate import write_backlog  # noqa: PLC0415 - likewise

    path = tmp_path / "backlog.mbox"
    write_backlog(path, 30, duplicates=3, broken=3)
    return path
