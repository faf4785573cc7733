"""Entries of those who may use the page."""

import re
from functools import partial

import pytest

from worker.ops.web import users
from worker.ops.web.users import Users
from worker.settings import SettingsError

PASSWORD = "correct horse battery"


entry = partial(users.entry, cost=(users.LEAST, 8, 1))  # as little work as is allowed


def test_an_entry_is_read_as_it_is_written() -> None:
    """Who has an entry is known by the password, has the role, and nobody else is."""
    found = Users(f"{entry('vera', 'viewer', PASSWORD)}, {entry('oskar', 'operator', 'ß' + PASSWORD)}\n")
    vera = found.verified("vera", PASSWORD)
    oskar = found.verified("oskar", "ß" + PASSWORD)
    assert vera is not None
    assert oskar is not None
    assert (vera.role, oskar.role) == ("viewer", "operator")
    assert found.verified("vera", "ß" + PASSWORD) is None
    assert found.verified("nobody", PASSWORD) is None
    assert found.named("nobody") is None


def test_an_entry_can_stand_anywhere() -> None:
    """Shells, Compose files and lists take an entry as it is, and the password is not in it."""
    made = entry("vera", "viewer", PASSWORD)
    assert re.fullmatch(r"[\w:-]+", made)
    assert PASSWORD not in made
    assert made != entry("vera", "viewer", PASSWORD)


def test_an_unknown_name_costs_the_same_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time does not tell who is a user: a password is checked either way."""
    found, checked = Users(entry("vera", "viewer", PASSWORD)), []
    real = users._hash
    monkeypatch.setattr(users, "_hash", lambda *given: checked.append(given[0]) or real(*given))
    for name in ("vera", "nobody"):
        found.verified(name, "wrong password")
    assert checked == ["wrong password"] * 2


def test_the_stamp_changes_with_role_and_password() -> None:
    """An entry that was written anew is another."""
    first = entry("vera", "viewer", PASSWORD)
    stamps = {
        user.stamp
        for text in (first, first.replace("viewer", "operator"), entry("vera", "viewer", PASSWORD))
        if (user := Users(text).named("vera"))
    }
    assert len(stamps) == 3


@pytest.mark.parametrize("text", ["", "  \n", ","])
def test_nobody(text: str) -> None:
    """Without an entry there are no users."""
    assert not Users(text)


GOOD = f"vera:viewer:scrypt:15:8:1:{'A' * 22}:{'B' * 43}"


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("vera", "form"),
        ("vera:viewer:plain:secretsecret", "form"),
        (GOOD.replace("scrypt", "bcrypt"), "form"),
        (GOOD.replace("viewer", "admin"), "role"),
        (GOOD.replace("vera", ""), "name"),
        (GOOD.replace("vera", "v" * 65), "name"),
        (GOOD.replace("15", "13"), "bounds"),
        (GOOD.replace("15", "20"), "bounds"),
        (GOOD.replace(":8:", ":99:"), "bounds"),
        (GOOD.replace(":8:", ":0:"), "bounds"),
        (GOOD.replace(":8:1:", ":8:5:"), "bounds"),
        (GOOD.replace("15", "-1"), "number"),
        (GOOD.replace("15", "1e9"), "number"),
        (GOOD.replace("15", "9999999"), "number"),
        (GOOD[:-1], "length"),
        (GOOD[:-1] + "!", "length"),
        (GOOD[:-1] + "$", "length"),
        (GOOD.replace("A", "", 1), "length"),
    ],
)
def test_a_wrong_entry_is_named_by_its_number(text: str, wrong: str) -> None:
    """The error says which entry, and what is wrong with it, and quotes nothing of it."""
    with pytest.raises(SettingsError, match=f"^VCC_WEB_USERS: entry 2 .*{wrong}") as raised:
        Users(f"{GOOD.replace('vera', 'first')} {text}")
    for part in re.split("[:,]", text):
        assert len(part) < 8 or part not in str(raised.value)


def test_the_same_name_twice() -> None:
    """Nobody has two roles."""
    with pytest.raises(SettingsError, match="entry 2"):
        Users(f"{GOOD} {GOOD}")


@pytest.mark.parametrize(
    ("name", "password"),
    [("ve ra", PASSWORD), ("a:b", PASSWORD), ("a,b", PASSWORD), ("", PASSWORD), ("vera", "short")],
)
def test_what_can_be_no_user(name: str, password: str) -> None:
    """A name that would break the list, and a password that is guessed soon, are refused."""
    with pytest.raises(ValueError, match=r"at least|at most"):
        entry(name, "viewer", password)
