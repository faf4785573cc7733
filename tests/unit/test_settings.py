"""Settings: from the environment, from a ``vcc up`` in the same folder, and what is said of wrong ones."""

import pytest

from worker import embedded, settings
from worker.settings import SettingsError


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30s", 30), ("15m", 900), ("24h", 86_400), ("7d", 604_800), ("1.5s", 1.5), ("200ms", 0.2)],
)
def test_durations(monkeypatch: pytest.MonkeyPatch, text: str, expected: float) -> None:
    """A duration is read in seconds, whatever its unit."""
    monkeypatch.setenv("VCC_TIMEOUT", text)
    found = settings.load()
    assert found.timeout == pytest.approx(expected)
    assert found.lease == pytest.approx(3 * expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("VCC_TIMEOUT", "30"),
        ("VCC_TIMEOUT", "0s"),
        ("VCC_GIVE_UP_AFTER", "soon"),
        ("VCC_REGION", "mars"),
        ("VCC_RATE", "fast"),
        ("VCC_MAX_REQUESTS", "0"),
    ],
)
def test_wrong_ones_are_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A wrong setting is named in one line."""
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}: ") as error:
        settings.load()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["VCC_RATE", "VCC_ASSUME_ENDED_AFTER", "VCC_ROUTES", "VCC_API_URL"])
def test_empty_is_as_if_not_set(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """An empty variable means the default."""
    expected = settings.load()
    monkeypatch.setenv(name, "")
    assert settings.load() == expected


def test_urls_of_the_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """The region decides the URLs, unless they are given."""
    monkeypatch.setenv("VCC_REGION", "nam")
    found = settings.load()
    assert found.invoke_url == "https://nam.api.newvoicemedia.com/interactions/Invoke"
    assert found.token_url == "https://nam.cc.vonage.com/Auth/connect/token"
    monkeypatch.setenv("VCC_API_URL", "https://api.example/base/")
    monkeypatch.setenv("VCC_AUTH_URL", "https://auth.example")
    found = settings.load()
    assert found.invoke_url == "https://api.example/base/interactions/Invoke"
    assert found.token_url == "https://auth.example/Auth/connect/token"


def test_routes_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Routes are separated by commas; spaces around them don't count."""
    monkeypatch.setenv("VCC_ROUTES", "Route A, Route B,")
    assert settings.load().routes == {"Route A", "Route B"}


def test_missing_servers_are_told_with_a_remedy() -> None:
    """Without servers the message says which variable is missing, and the way without it."""
    found = settings.load()
    for name, ask in (("DATABASE_URL", found.database), ("REDIS_URL", found.redis)):
        with pytest.raises(SettingsError, match=f"{name} is not set.*vcc up"):
            ask()


def test_what_runs_in_this_folder_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ``vcc up`` in this folder fills in what is not set; what is set for another database it leaves alone."""
    announced = {
        "DATABASE_URL": "postgresql://a",
        "REDIS_URL": "redis://a",
        "VCC_API_URL": "http://127.0.0.1:1",
    }
    embedded.announce(settings.HOME, announced)
    found = settings.load()
    assert (found.database(), found.redis()) == ("postgresql://a", "redis://a")
    assert found.api_url == "http://127.0.0.1:1"
    monkeypatch.setenv("VCC_API_URL", "https://mine.example")
    assert settings.load().api_url == "https://mine.example"
    monkeypatch.delenv("VCC_API_URL")
    monkeypatch.setenv("DATABASE_URL", "postgresql://other")
    found = settings.load()
    assert (found.database(), found.api_url, found.redis_url) == ("postgresql://other", "", None)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"pid": 1}', '{"pid": 999999999, "env": {"REDIS_URL": "r"}}']
)
def test_a_stale_announcement_is_ignored(content: str) -> None:
    """What a ``vcc up`` left behind that runs no more changes nothing."""
    settings.HOME.mkdir(parents=True)
    (settings.HOME / "run.json").write_text(content)
    assert settings.running() == {}


def test_secrets_are_not_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Printing the settings shows no secret."""
    for name in ("VCC_CLIENT_SECRET", "DATABASE_URL", "REDIS_URL"):
        monkeypatch.setenv(name, "hush-hush")
    assert "hush" not in repr(settings.load())
