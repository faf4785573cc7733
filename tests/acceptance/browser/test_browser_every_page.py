"""What has to hold on every page: for those who can't see, in the dark, on a phone, whatever customers wrote."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT

from tests.acceptance.browser.conftest import PHONE, Visit
from tests.acceptance.browser.house import PLANTED, RELEASED, SENTENCE, House

if TYPE_CHECKING:
    from playwright.sync_api import Page

TOO_WIDE = "document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"

AXE = "axe.run({resultTypes: ['violations']}).then(found => found.violations)"


@pytest.fixture
def pages(house: House, visit: Visit) -> Callable[..., Iterator[tuple[str, "Page"]]]:
    """Give a walk through all pages there are, each with its name."""

    def walk(**options: Any) -> Iterator[tuple[str, "Page"]]:
        page = visit("/", **options)
        yield "overview", page
        for name, path in _paths(house).items():
            page.goto(path)
            yield name, page
        page.goto("/interactions?state=failed")
        page.get_by_role("button", name="Retry all").click()
        yield "retry", page
        yield "login", visit("/login", user="", **options)
        yield "database away", visit(house.broken, user="", **options)

    return walk


def _paths(house: House) -> dict[str, str]:
    """Name the pages that a link or an address leads to."""
    (planted,) = house.ask("select id from interactions where externalid = %(e)s", e=PLANTED)
    (released,) = house.ask("select id from interactions where externalid = %(e)s", e=RELEASED)
    rejected = house.ask("select id from rejections order by id")
    return {
        "interactions": "/interactions",
        "filtered": "/interactions?state=failed&error=refused&lane=live&age=1h",
        "empty list": "/interactions?route=nowhere",
        "refused": f"/interactions/{planted.id}",
        "released": f"/interactions/{released.id}",
        "rejections": "/rejections",
        **{f"rejection {row.id}": f"/rejections/{row.id}" for row in rejected},
        "audit": "/audit",
        "not found": "/nothing",
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(pages: Callable[..., Iterator[tuple[str, "Page"]]], scheme: str) -> None:
    """Labels, landmarks, headings and contrast are as they have to be, on light and on dark ground."""
    found = []
    # the page's own policy lets nothing be injected, axe neither
    for name, page in pages(color_scheme=scheme, bypass_csp=True):
        page.evaluate(AXE_SCRIPT)
        found += [
            (name, one["id"], one["help"], [n["html"] for n in one["nodes"]]) for one in page.evaluate(AXE)
        ]
    assert found == []


def test_a_phone_scrolls_down_only(pages: Callable[..., Iterator[tuple[str, "Page"]]]) -> None:
    """No page is wider than a phone."""
    wide = [(name, page.evaluate(TOO_WIDE)) for name, page in pages(viewport=PHONE)]
    assert [found for found in wide if found[1]] == []


def test_what_customers_wrote_is_text(pages: Callable[..., Iterator[tuple[str, "Page"]]]) -> None:
    """A planted script is shown as it was written, wherever it stands, and never runs; a link stays a link."""
    ran: list[str] = []
    shown = {}
    for name, page in pages():
        if not shown:
            page.on("dialog", lambda dialog: (ran.append(dialog.message), dialog.dismiss()))
        shown[name] = page.locator("main").inner_text()
        assert page.locator("main script, main img").count() == 0, name
    assert ran == []
    assert {name for name, text in shown.items() if PLANTED in text} >= {
        "interactions",
        "filtered",
        "refused",
    }
    assert PLANTED in shown["overview"]  # as the error that it is refused with
    assert SENTENCE in shown["refused"]
