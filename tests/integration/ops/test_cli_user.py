"""``vcc user`` writes an entry that the page takes."""

import io
from collections.abc import Iterable

import pytest

from tests.integration.ops.conftest import Vcc
from worker.ops.web.users import Users

PASSWORD = "correct horse bättery"


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> "Typed":
    """Give who types."""
    return Typed(monkeypatch)


class Typed:
    """Somebody at a terminal, or a script's standard input."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch

    def at_terminal(self, *words: str) -> None:
        """Type one word after the other, when asked."""
        left = iter(words)
        self._monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        self._monkeypatch.setattr("getpass.getpass", lambda _: next(left))

    def into(self, raw: bytes) -> None:
        """Pipe something in."""
        self._monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8"))


def verified(entries: Iterable[str]) -> list[str]:
    """Tell the roles of those entries that the password fits."""
    return [user.role for text in entries if (user := Users(text).verified("vera", PASSWORD))]


def test_a_script_pipes_the_password_in(vcc: Vcc, typed: Typed) -> None:
    """From a script the first line of standard input is the password; the entry is all that is printed."""
    typed.into(f"{PASSWORD}\nmore\n".encode())
    machine = vcc("user", "vera", "--role", "operator", "--json")
    typed.into(f"{PASSWORD}\r\n".encode())
    people = vcc("user", "vera")
    assert verified([machine.json["entry"], people.out.strip()]) == ["operator", "viewer"]
    assert PASSWORD not in machine.out + people.out + people.err


def test_a_password_is_typed_twice(vcc: Vcc, typed: Typed) -> None:
    """At a terminal a slip of the finger makes no user."""
    typed.at_terminal(PASSWORD, PASSWORD)
    assert verified([vcc("user", "vera").out.strip()]) == ["viewer"]
    typed.at_terminal(PASSWORD, PASSWORD + "x")
    slipped = vcc("user", "vera")
    assert (slipped.code, slipped.out) == (1, "")


@pytest.mark.parametrize(
    ("name", "raw"),
    [("vera", b"short\n"), ("vera", b""), ("vera", b"\xff" * 12), ("ve:ra", PASSWORD.encode())],
)
def test_what_makes_no_user(vcc: Vcc, typed: Typed, name: str, raw: bytes) -> None:
    """A short password, none, bytes that are no text, and a name that would break the list are refused."""
    typed.into(raw)
    refused = vcc("user", name)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("error: ")
