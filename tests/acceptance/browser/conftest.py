"""One house and one browser for all tests here: both take a second or two to start, a test takes less."""

import os
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.acceptance.browser.house import OPERATOR, PASSWORD, House, inhabited
from tests.acceptance.stand import Stand
from tests.conftest import clean_database, clean_redis
from worker.simulator.run import Background

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, StorageState

PHONE = {"width": 375, "height": 740}


def press(page: "Page", button: str) -> None:
    """Press a button of the page itself and wait for the page that it leads to, which a click alone does not."""
    with page.expect_navigation():
        page.get_by_role("main").get_by_role("button", name=button).click()


def enter(page: "Page", name: str) -> None:
    """Log in by hand."""
    page.goto("/login")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    press(page, "Log in")


@pytest.fixture(scope="package")
def browser() -> Iterator["Browser"]:
    """Give a real Chromium without a window.

    Only for as long as tests here run: meanwhile no other code of this thread could use asyncio.
    """
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("Chromium is not installed")
    options = ["--no-sandbox"] if os.geteuid() == 0 else []  # as root it runs without one only
    with playwright.sync_playwright() as running:
        started = running.chromium.launch(executable_path=program, args=options)
        yield started
        started.close()


@pytest.fixture(scope="package")
def house(
    browser: "Browser", request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[House]:
    """Give servers, a worker, beat, the API's stand-in and the page."""
    with Background() as simulator:
        folder = tmp_path_factory.mktemp("house")
        stand = Stand(clean_database(request), clean_redis(request), simulator, folder)
        with inhabited(stand) as found:
            yield found


@pytest.fixture(scope="package")
def logged_in(browser: "Browser", house: House) -> Callable[[str], "StorageState"]:
    """Give the cookies of a user who has logged in, once for all tests."""
    known: dict[str, StorageState] = {}

    def log_in(name: str) -> "StorageState":
        if name not in known:
            context = browser.new_context(base_url=house.url)
            page = context.new_page()
            enter(page, name)
            known[name] = context.storage_state()
            context.close()
        return known[name]

    return log_in


Visit = Callable[..., "Page"]


@pytest.fixture
def visit(browser: "Browser", house: House, logged_in: Callable[[str], "StorageState"]) -> Iterator[Visit]:
    """Give a way to open a page: a path, a user, and what the browser's context is to be like.

    No page may have a script that fails, or that is not its own.
    """
    contexts: list[BrowserContext] = []
    alarms: list[str] = []

    def open_page(path: str = "/", user: str = OPERATOR, **options: Any) -> "Page":
        known = {"storage_state": logged_in(user)} if user else {}
        context = browser.new_context(base_url=house.url, **known, **options)
        contexts.append(context)
        context.on("dialog", lambda dialog: (alarms.append(dialog.message), dialog.dismiss()))
        context.on("weberror", lambda error: alarms.append(str(error.error)))
        context.on("console", lambda said: alarms.append(said.text) if _is_alarming(said) else None)
        page = context.new_page()
        page.goto(path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert alarms == []


def _is_alarming(said: "ConsoleMessage") -> bool:
    # the browser itself remarks on every answer of 400 and above
    return said.type == "error" and not said.text.startswith("Failed to load resource")
