"""Which addresses are allowed, and how the client is set up."""

from importlib import metadata
from typing import Any

import pytest

from worker.settings import Settings, SettingsError
from worker.vonage import transport
from worker.vonage.deadline import Deadline


def settings(**values: Any) -> Settings:
    """Settings that would be allowed, but for ``values``."""
    return Settings(**{"api_url": "", "auth_url": "", "allow_http": False, **values})


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://api.example",
        "https://api.example:8443/base/",
        "http://localhost:8080",
        "http://127.0.0.1:1",
        "http://127.8.9.10",
        "http://[::1]:80",
    ],
)
def test_allowed(url: str) -> None:
    """Any address may be called by https, one of this machine by http too."""
    transport.check_urls(settings(api_url=url, auth_url=url))


@pytest.mark.parametrize(
    "url", ["http://api.example", "http://10.0.0.1", "http://127.0.0.1.evil.example", "http://[2001:db8::1]"]
)
@pytest.mark.parametrize(("field", "name"), [("api_url", "VCC_API_URL"), ("auth_url", "VCC_AUTH_URL")])
def test_plain_http_is_refused(field: str, name: str, url: str) -> None:
    """Calling another machine by http is refused unless it is allowed, naming both settings."""
    with pytest.raises(SettingsError, match=rf"{name}.*VCC_ALLOW_HTTP"):
        transport.check_urls(settings(**{field: url}))

    transport.check_urls(settings(**{field: url}, allow_http=True))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://api.example",
        "api.example",
        "https://",
        "https://a.example?x=1#",
        "https://a.example#f",
        "https://a:b",
    ],
)
def test_nonsense_is_refused(url: str) -> None:
    """What is no address of a server is refused by name, also where http is allowed."""
    with pytest.raises(SettingsError, match=r"VCC_API_URL: .*https://host"):
        transport.check_urls(settings(api_url=url, allow_http=True))


def test_userinfo_is_refused() -> None:
    """A password in an address would replace the bearer token; it is refused and not repeated."""
    with pytest.raises(SettingsError) as refusal:
        transport.check_urls(settings(auth_url="https://me:hush@api.example"))

    assert "VCC_AUTH_URL" in str(refusal.value)
    assert "hush" not in str(refusal.value)


def test_user_agent_names_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client says its version, and 0 where it runs without being installed."""
    monkeypatch.setattr(metadata, "version", lambda name: "1.2.3")
    with transport.open_client() as client:
        assert client.headers["user-agent"] == "vcc-worker/1.2.3"

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "version", missing)
    with transport.open_client() as client:
        assert client.headers["user-agent"] == "vcc-worker/0"


@pytest.mark.parametrize(("seconds", "tries"), [(20, 3), (0, 1)])
def test_again(seconds: float, tries: int) -> None:
    """What is certain is tried three times, but never past the deadline."""
    tried: list[int] = []

    def fail() -> None:
        tried.append(1)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        transport.again(Deadline(seconds), ConnectionError)(fail)

    assert len(tried) == tries
