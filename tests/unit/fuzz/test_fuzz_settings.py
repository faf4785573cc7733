"""Whatever the environment holds, there are settings that work, or one line that names the variable."""

import json
import os
import string
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from worker import settings
from worker.settings import Settings, SettingsError
from worker.store.database import connect
from worker.vonage.transport import check_urls

# what an environment can hold: no NUL, and bytes that are no UTF-8 as half characters
texts = st.text(st.characters(blacklist_characters="\0", blacklist_categories=()), max_size=30).filter(
    lambda text: not any("\ud800" <= c < "\udc80" or "\udcff" < c <= "\udfff" for c in text)
)
numbers = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "-", "+", " ", "0"]),
    st.sampled_from(
        [
            "0",
            "1",
            "30",
            "1.5",
            ".5",
            "1e3",
            "9" * 400,
            "9" * 5000,
            "inf",
            "nan",
            "0x1",
            "٣",
            "1_0",
            "0" * 5000,
        ]
    ),
    st.sampled_from(["", "ms", "s", "m", "h", "d", "S", " s", "\n", "days"]),
)
URLS = ("DATABASE_URL", "REDIS_URL", "VCC_API_URL", "VCC_AUTH_URL")
urls = st.builds(
    "{}://{}".format,
    st.sampled_from(["http", "https", "postgresql", "redis", "file", ""]),
    st.text(string.printable, max_size=20),
)
DURATIONS = (
    "VCC_TIMEOUT",
    "VCC_GIVE_UP_AFTER",
    "VCC_RELEASE_GRACE",
    "VCC_ASSUME_ENDED_AFTER",
    "VCC_KEEP_FOR",
)
NAMES = (
    *URLS,
    *DURATIONS,
    *"VCC_CLIENT_ID VCC_CLIENT_SECRET VCC_REGION VCC_ALLOW_HTTP VCC_MAX_REQUESTS VCC_RATE VCC_ROUTES".split(),
)
SECRETS = ("DATABASE_URL", "REDIS_URL", "VCC_CLIENT_SECRET", "VCC_CLIENT_ID")


def load(environment: dict[str, str]) -> Settings | str:
    """Read the settings from an environment of its own; what is said where they are wrong."""
    kept = dict(os.environ)
    try:
        os.environ.update(environment)
        return settings.load()
    except SettingsError as error:
        return str(error)
    finally:
        os.environ.clear()
        os.environ.update(kept)


def hold(found: Settings | str, *names: str) -> None:
    """Hold settings, or what is said of them, to what their readers rely on."""
    if isinstance(found, str):
        assert found.isprintable()
        assert len(found) < 200 * len(names)
        assert any(name in found for name in names)
        return
    for seconds in (found.timeout, found.lease, found.give_up_after, found.release_grace, found.keep_for):
        assert 0 < seconds < 1e10
    assert found.rate is None or 0.001 <= found.rate <= 10_000
    assert f"{found.client_id}{found.client_secret.get_secret_value()}{found.api_url}{sorted(found.routes)}".encode()


@examples(max_examples=150)
@given(name=st.sampled_from(NAMES), text=texts | numbers | urls)
@example("VCC_RATE", "inf")
@example("VCC_TIMEOUT", "9" * 400 + "s")
@example("VCC_GIVE_UP_AFTER", "99999999999d")
@example("VCC_CLIENT_ID", "\udcff")
@example("VCC_TIMEOUT", "\U00010000" * 40)
def test_any_variable(name: str, text: str) -> None:
    """Whatever one variable holds, the settings can be worked with, or the line names it and repeats no secret."""
    found = load({name: text})
    hold(found, name)
    if name in SECRETS and isinstance(found, str) and len(text) > 5:
        assert text not in found


@examples(max_examples=100)
@given(st.dictionaries(st.sampled_from(DURATIONS), numbers, min_size=2))
def test_any_durations(environment: dict[str, str]) -> None:
    """Of several that are wrong each is named."""
    hold(load(environment), *environment)


@examples(max_examples=100)
@given(texts | urls)
@example("postgresql://user:hush-hush@[::1/name")
@example("postgresql://user:hush-hush@host:port/name")
@example("hush-hush")
def test_any_database_url(url: str) -> None:
    """Whatever DATABASE_URL holds, it makes an engine, or the refusal names the variable and not the password."""
    said = "DATABASE_URL is one"
    try:
        connect(url).dispose()
    except SettingsError as error:
        said = str(error)
    assert said.startswith("DATABASE_URL")
    assert said.isprintable()
    assert "hush-hush" not in said


@examples(max_examples=100)
@given(url=texts | urls, name=st.sampled_from(["api_url", "auth_url"]))
def test_any_address(url: str, name: str) -> None:
    """Whatever the API's addresses are set to, they can be called, or the refusal names the variable."""
    said = f"VCC_{name.upper()} may be called"
    try:
        check_urls(Settings.model_construct(**{name: url}))
    except SettingsError as error:
        said = str(error)
    assert said.startswith(f"VCC_{name.upper()}")
    assert said.isprintable()


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["pid", "env", "REDIS_URL"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@examples(max_examples=100)
@given(env=junk | st.dictionaries(st.sampled_from(NAMES), junk | texts, max_size=4))
@example(env=[["REDIS_URL", 1], [1, 2]])
@example(env={"REDIS_URL": "redis://\0"})
def test_any_announcement(env: Any) -> None:
    """Whatever stands in the announcement of a ``vcc up``, it is used, ignored, or refused in one line."""
    settings.HOME.mkdir(parents=True, exist_ok=True)
    announced = {"pid": os.getpid(), "env": env}
    (settings.HOME / "run.json").write_text(json.dumps(announced, ensure_ascii=True))
    assert all(isinstance(value, str) for value in settings.running().values())
    hold(load({}), *NAMES)


@pytest.mark.parametrize(
    "content", [b"\xff", b"\0", b"[" * 100_000, b'{"pid": 1e999}', b'{"pid": "1", "env": {}}', b"null"]
)
def test_announcements_that_are_none(content: bytes) -> None:
    """A file that is no announcement is ignored."""
    settings.HOME.mkdir(parents=True)
    (settings.HOME / "run.json").write_bytes(content)
    assert settings.running() == {}
