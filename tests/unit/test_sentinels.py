"""The one URL that names sentinels."""

import pytest

from worker import settings
from worker.sentinels import for_kombu, pool, read
from worker.settings import SettingsError


def test_all_of_it() -> None:
    """Hosts, ports, logins, the master's name and the database are read; what is percent-encoded is decoded."""
    url = "sentinel://ann:hu%2Fsh@one:7000,[::1]:7001,two/3?master=vcc&sentinel_username=u&sentinel_password=a%26b"
    found = read(url)
    assert found.hosts == [("one", 7000), ("::1", 7001), ("two", 26379)]
    assert (found.master, found.db) == ("vcc", 3)
    assert found.login == {"username": "ann", "password": "hu/sh"}
    assert found.own == {"username": "u", "password": "a&b"}


def test_the_least() -> None:
    """A host and the master's name are enough."""
    found = read("sentinel://one?master=vcc")
    assert (found.hosts, found.db, found.login, found.own) == ([("one", 26379)], 0, {}, {})


@pytest.mark.parametrize(
    "url",
    [
        "sentinel://:geheim@one",
        "sentinel://:geheim@one:26379/0",
        "sentinel://:geheim@one:26379/0?master=",
        "sentinel://:geheim@one:26379/0?master=a&maser=b",
        "sentinel://:geheim@one:port/0?master=a",
        "sentinel://:geheim@one:26379,/0?master=a",
        "sentinel://:geheim@/0?master=a",
        "sentinel://:geheim@one/x?master=a",
        "sentinel:geheim",
    ],
)
def test_what_can_not_be_read(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that is none is refused by the settings, by the variable's name and without its words."""
    monkeypatch.setenv("REDIS_URL", url)
    with pytest.raises(SettingsError, match="REDIS_URL: names no Redis behind sentinels") as refused:
        settings.load()
    assert "geheim" not in str(refused.value)


def test_for_celery() -> None:
    """Celery's broker gets each sentinel by itself, all with Redis's login, and the rest as options."""
    url, options = for_kombu("sentinel://:hu%2Fsh@one:7000,[::1]/3?master=vcc&sentinel_password=own")
    assert url == "sentinel://:hu%2Fsh@one:7000/3;sentinel://:hu%2Fsh@[::1]:26379/3"
    assert options["master_name"] == "vcc"
    assert options["sentinel_kwargs"]["password"] == "own"
    assert for_kombu("redis://h") == ("redis://h", {})


def test_each_connection_asks_for_itself() -> None:
    """The options are those of the connections to Redis; sentinels have their own login."""
    made = pool("sentinel://:hush@one/3?master=vcc&sentinel_password=own", socket_timeout=7)
    assert (made.connection_kwargs["password"], made.connection_kwargs["db"]) == ("hush", 3)
    assert made.connection_kwargs["socket_timeout"] == 7
    [asked] = made.sentinel_manager.sentinels
    assert asked.connection_pool.connection_kwargs["password"] == "own"


@pytest.mark.parametrize("url", ["redis://:geheim@h", "geheim"])
def test_broker_is_rabbitmq(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """VCC_BROKER_URL is for RabbitMQ only, and says so without its words."""
    monkeypatch.setenv("VCC_BROKER_URL", url)
    with pytest.raises(SettingsError, match="VCC_BROKER_URL: is for RabbitMQ") as refused:
        settings.load()
    assert "geheim" not in str(refused.value)
