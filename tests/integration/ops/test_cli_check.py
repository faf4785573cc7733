"""``vcc check``: each line ok or failed, with its remedy."""

from typing import Any

import psycopg
import pytest
import redis

from tests.integration.ops.conftest import Vcc
from worker import embedded
from worker.simulator.run import Background


def _by_name(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    assert all(set(one) == {"name", "ok", "detail", "remedy"} for one in found)
    return {one["name"]: one for one in found}


def test_all_is_well(vcc: Vcc, house: Background) -> None:
    """Every look is ok, and there is nothing to do."""
    result = vcc("check", "--json")
    found = _by_name(result.json)
    assert result.code == 0
    assert {"database", "migrations", "redis", "credentials", "token"} <= set(found)
    assert all(one["ok"] for one in found.values())


def test_people_see_a_table(vcc: Vcc, house: Background) -> None:
    """A line each, marked."""
    result = vcc("check")
    assert result.code == 0
    assert "PostgreSQL" in result.out
    assert "failed" not in result.out


@pytest.mark.parametrize(
    ("variable", "value", "name", "words"),
    [
        (
            "DATABASE_URL",
            "postgresql://u:geheim@127.0.0.1:1/d",
            "database",
            "can't reach the database at 127.0.0.1:1",
        ),
        ("REDIS_URL", "redis://:geheim@127.0.0.1:1/0", "redis", "can't reach Redis at 127.0.0.1:1"),
        ("VCC_CLIENT_SECRET", "geheim", "token", "invalid_client"),
        ("VCC_CLIENT_SECRET", "", "credentials", "VCC_CLIENT_SECRET not set"),
        ("VCC_AUTH_URL", "http://127.0.0.1:1", "token", "ConnectError"),
        ("VCC_API_URL", "http://example.test", "api", "VCC_API_URL"),
        ("VCC_REGION", "mars", "settings", "VCC_REGION"),
    ],
)
def test_what_fails_has_its_remedy(
    vcc: Vcc,
    house: Background,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    name: str,
    words: str,
) -> None:
    """The one thing that is wrong is named, with what to do and without a secret; the status is 1."""
    monkeypatch.setenv(variable, value)
    result = vcc("check", "--json")
    found = _by_name(result.json)
    assert result.code == 1
    assert [one["name"] for one in found.values() if not one["ok"]] == [name]
    assert words in found[name]["detail"]
    assert found[name]["remedy"]
    assert "geheim" not in result.out + result.err


def test_a_token_endpoint_elsewhere_is_told(vcc: Vcc, house: Background) -> None:
    """A 404 means a wrong address, not wrong credentials."""
    house.faults(not_found={"at": "token"})
    found = _by_name(vcc("check", "--json").json)
    assert "VCC_AUTH_URL" in found["token"]["remedy"]


def test_missing_migrations_are_named(vcc: Vcc, house: Background, database_url: str) -> None:
    """An older database is told which command brings it up."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("delete from alembic_version")
    result = vcc("check", "--json")
    found = _by_name(result.json)
    assert result.code == 1
    assert found["database"]["ok"]
    assert "0001" in found["migrations"]["detail"]
    assert found["migrations"]["remedy"] == "run `vcc migrate`"


def test_a_redis_that_may_lose_jobs_is_a_warning(
    vcc: Vcc, redis_server: embedded.Server, house: Background
) -> None:
    """Eviction or no append-only file: it works, but the operator should know."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        try:
            result = vcc("check", "--json")
            people = vcc("check")
        finally:
            client.config_set("maxmemory-policy", "noeviction")
    found = _by_name(result.json)["redis maxmemory-policy"]
    assert result.code == 0
    assert (found["ok"], found["detail"]) == (True, "allkeys-lru")
    assert "noeviction" in found["remedy"]
    assert "warning" in people.out


def test_a_redis_that_does_not_tell_its_settings_is_a_warning(
    vcc: Vcc, redis_server: embedded.Server, house: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosted ones refuse CONFIG; then the operator has to see to it."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.execute_command("ACL", "SETUSER", "guest", "on", ">word", "~*", "+@all", "-config")
        monkeypatch.setenv(
            "REDIS_URL", redis_server.url.replace("://:", "://guest:").replace(_secret(redis_server), "word")
        )
        try:
            found = _by_name(vcc("check", "--json").json)
        finally:
            client.execute_command("ACL", "DELUSER", "guest")
    assert found["redis appendonly"]["ok"]
    assert found["redis appendonly"]["detail"] == "can't be read"


def _secret(server: embedded.Server) -> str:
    return server.url.partition("://:")[2].partition("@")[0]


def test_a_wrong_redis_password_is_told(
    vcc: Vcc, house: Background, redis_server: embedded.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not the address that is wrong."""
    monkeypatch.setenv("REDIS_URL", redis_server.url.replace(_secret(redis_server), "geheim"))
    found = _by_name(vcc("check", "--json").json)
    assert "refuses the password" in found["redis"]["detail"]
