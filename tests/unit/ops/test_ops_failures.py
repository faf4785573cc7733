"""What a failure is told as: a line with a remedy, and no secret in it."""

import errno

import click
import pytest
from alembic.script.revision import ResolutionError
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import AuthenticationError, ConnectionError  # noqa: A004 - Redis's own
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from worker.ops import failures
from worker.ops.failures import CommandError, explain, report
from worker.server import EmbeddedError


class DriverError(Exception):
    """An error as the driver would raise it."""

    def __init__(self, text: str, sqlstate: str | None = None) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate


@pytest.fixture(autouse=True)
def _addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://vcc:geheim@db.test/vcc")
    monkeypatch.setenv("REDIS_URL", "redis://:geheim@redis.test:7000/0")


def _down(text: str) -> OperationalError:
    return OperationalError("select 'a customer'", {}, DriverError(text))


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (CommandError("say this"), "say this"),
        (EmbeddedError("say that"), "say that"),
        (_down("connection refused"), "can't reach the database at db.test:5432"),
        (_down('FATAL: password authentication failed for user "x"'), "refuses the user or the password"),
        (_down('FATAL: database "x" does not exist'), "there is no such database at db.test:5432"),
        (ProgrammingError("select 'a customer'", {}, DriverError("", "42P01")), "run `vcc migrate`"),
        (
            ProgrammingError("select 'a customer'", {}, DriverError("", "42601")),
            "reports ProgrammingError 42601",
        ),
        (PoolTimeoutError("a customer"), "reports TimeoutError"),
        (ResolutionError("no such revision", "f00"), "a newer version"),
        (ConnectionError("a customer"), "can't reach Redis at redis.test:7000"),
        (AuthenticationError("geheim"), "Redis at redis.test:7000 refuses the password"),
        (BrokerError("geheim"), "can't reach Redis at redis.test:7000"),
        (ModuleNotFoundError("no", name="uvicorn.main"), "pip install 'vcc-worker[embedded]'"),
        (ModuleNotFoundError("no", name="nonsense"), "unexpected ModuleNotFoundError"),
        (click.UsageError("No such option"), "No such option"),
        (PermissionError(errno.EACCES, "Permission denied", "/file"), "Permission denied: /file"),
        (OSError("a customer"), "OSError"),
        (ValueError("a customer"), "unexpected ValueError: please report this"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_every_failure_has_its_sentence(error: Exception, words: str) -> None:
    """It names the trouble and what to do, never a password or what a text might quote."""
    told = explain(error)
    assert words in told
    assert "geheim" not in told
    assert "a customer" not in told


def test_wrong_use_of_celerys_commands_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    """As with our own commands."""
    assert report(click.UsageError("No such option")) == 2
    assert report(CommandError("no")) == 1
    assert capsys.readouterr().err == "error: No such option\nerror: no\n"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql:///vcc", "(local socket):5432"),
        ("postgresql://u:geheim@h:1234/vcc", "h:1234"),
        ("nonsense", "the address in DATABASE_URL"),
    ],
)
def test_an_address_is_a_host_and_a_port(monkeypatch: pytest.MonkeyPatch, url: str, shown: str) -> None:
    """Enough to find the server, and no more."""
    monkeypatch.setenv("DATABASE_URL", url)
    assert failures.address("DATABASE_URL") == shown
