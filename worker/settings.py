"""Settings, typed, from the environment; README lists them all.

``load()`` reads the environment afresh. What is missing there is taken from a ``vcc up`` that runs in this folder
(``.vcc/run.json``): the servers that it started, and where the API is that its workers call.
"""

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

HOME = Path(os.environ.get("VCC_HOME", ".vcc"))
"""Where ``vcc up`` keeps the data of the embedded servers and says where they listen."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_LONGEST = 36_500
"""Days that a duration may have; added to the present, more would be past the end of Postgres's calendar."""


class SettingsError(Exception):
    """A setting is missing or wrong; the message names it and the remedy."""


def seconds(text: object) -> float:
    """Read a duration such as ``30s``, ``15m``, ``24h`` or ``7d``.

    >>> seconds("15m")
    900.0
    """
    if isinstance(text, int | float):
        return _bounded(float(text))
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", str(text))
    if not found:
        raise ValueError(f"{str(text)[:40]!a:.80} is no duration: write it like 30s, 15m, 24h or 7d")
    return _bounded(float(found[1]) * _UNITS[found[2]])


def _bounded(found: float) -> float:
    if not 0 < found <= _LONGEST * _UNITS["d"]:
        raise ValueError(f"a duration has to be more than 0s, and {_LONGEST}d at most")
    return found


def _empty_is_none(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


Duration = Annotated[float, BeforeValidator(seconds)]
OptionalDuration = Annotated[Duration | None, BeforeValidator(_empty_is_none)]


class Settings(BaseSettings):
    """Everything that is set from outside; durations are in seconds."""

    model_config = SettingsConfigDict(env_prefix="VCC_", env_ignore_empty=True, frozen=True, extra="ignore")

    database_url: SecretStr | None = Field(None, validation_alias="DATABASE_URL")
    redis_url: SecretStr | None = Field(None, validation_alias="REDIS_URL")
    broker_url: SecretStr | None = None
    client_id: str = ""
    client_secret: SecretStr = SecretStr("")
    region: Literal["emea", "nam", "apac"] = "emea"
    api_url: str = ""
    auth_url: str = ""
    allow_http: bool = False
    max_requests: int = Field(500, ge=1, le=10_000)
    rate: Annotated[float | None, BeforeValidator(_empty_is_none)] = Field(None, ge=0.001, le=10_000)
    timeout: Annotated[Duration, Field(le=604_800)] = 30.0
    give_up_after: Duration = 86_400.0
    release_grace: Duration = 86_400.0
    assume_ended_after: OptionalDuration = None
    keep_for: Duration = 90 * 86_400.0
    leak_after: Duration = 86_400.0
    routes: Annotated[frozenset[str], NoDecode] = frozenset()
    web_users: SecretStr = SecretStr("")
    metrics_token: SecretStr | None = None
    log_format: Literal["auto", "json", "text"] = "auto"

    @field_validator("routes", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return frozenset(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("redis_url")
    @classmethod
    def _watched(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and value.get_secret_value().startswith("sentinel:"):
            from worker.sentinels import read  # noqa: PLC0415 -- not what most commands need

            read(value.get_secret_value())
        return value

    @field_validator("broker_url")
    @classmethod
    def _rabbit(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.match("amqps?://", value.get_secret_value()):
            raise ValueError(
                "is for RabbitMQ: write amqp://user:password@host:5672/vhost, or leave it empty to use REDIS_URL"
            )
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _readable(cls, value: object) -> object:
        # a byte of the environment that is no UTF-8 comes as half a character, which nothing can be sent or stored with
        if isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
            raise ValueError("holds a NUL or bytes that are no UTF-8; set it anew")
        return value

    @model_validator(mode="before")
    @classmethod
    def _announced(cls, values: dict[str, Any]) -> dict[str, Any]:
        announced = running()
        # one set of servers: what belongs to another database is of no use to this one
        if values.get("DATABASE_URL") in (None, announced.get("DATABASE_URL")):
            for name, value in announced.items():
                key = name.removeprefix("VCC_").lower() if name.startswith("VCC_") else name
                values[key] = values.get(key) or value
        return values

    @property
    def invoke_url(self) -> str:
        """Where Invoke is (API.md's *Create inbound interaction*)."""
        base = self.api_url or f"https://{self.region}.api.newvoicemedia.com"
        return f"{base.rstrip('/')}/interactions/Invoke"

    @property
    def token_url(self) -> str:
        """Where a bearer token is had (*Authentication (Interactions API)*)."""
        return f"{(self.auth_url or f'https://{self.region}.cc.vonage.com').rstrip('/')}/Auth/connect/token"

    @property
    def lease(self) -> float:
        """How long a claimed row belongs to its worker: three times the longest call."""
        return 3 * self.timeout

    def database(self) -> str:
        """The database's URL, or a SettingsError that says how to get one."""
        return _required(self.database_url, "DATABASE_URL")

    def redis(self) -> str:
        """The URL of Redis, or a SettingsError that says how to get one."""
        return _required(self.redis_url, "REDIS_URL")


def _required(url: SecretStr | None, name: str) -> str:
    if url is None:
        raise SettingsError(
            f"{name} is not set: set it, or run `vcc up` in this folder for an embedded server"
        )
    return url.get_secret_value()


def running() -> dict[str, str]:
    """The environment that a ``vcc up`` in this folder gives to other commands; empty where none runs."""
    try:
        found = json.loads((HOME / "run.json").read_text())
        os.kill(found["pid"], 0)
        return {name: value for name, value in found["env"].items() if isinstance(value, str)}
    except (OSError, AttributeError, OverflowError, RecursionError, TypeError, ValueError, KeyError):
        return {}


def load() -> Settings:
    """Read the settings; raises SettingsError naming each variable that is wrong."""
    try:
        return Settings()  # type: ignore[call-arg]
    except ValidationError as error:
        raise SettingsError("; ".join(_line(e) for e in error.errors(include_input=False))) from None


def _line(error: Any) -> str:
    name = str(error["loc"][0]) if error["loc"] else "settings"
    env = name if name.isupper() else f"VCC_{name.upper()}"
    return f"{env}: {error['msg'].removeprefix('Value error, ')}"
