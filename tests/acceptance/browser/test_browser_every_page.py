"""What has to hold on every page: for those who can't see, in the dark, on a phone, whatever customers wrote."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT

from tests.acceptance.browser.conftest import PHONE, Visit, press
from tests.acceptance.browser.house import PLANTED, PLANTED_SUBJECT, RELEASED, SENTENCE, House

if TYPE_CHECKING:
    from playwright.sync_api import Page

TOO_WIDE = "document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"

Pages = Callable[..., Iterator[tuple[str, "Page"]]]

AXE = """axe.run({resultTypes: ["violations"]}).then(found => found.violations.map(
    ({id, nodes}) => ({id, nodes: nodes.map(node => node.html)})))"""


@pytest.fixture
def pages(house: House, visit: Visit) -> Pages:
    """Give a walk through all pages there are, each with its name."""

    def walk(**options: Any) -> Iterator[tuple[str, "Page"]]:
        page = visit("/", **options)
        press(page, "Pause")
        yield "paused", page
        press(page, "Resume")
        yield "overview", page
        for name, path in _paths(house).items():
            page.goto(path)
            yield name, page
        page.goto("/interactions?state=failed")
        press(page, "Retry all")
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


def test_axe_finds_nothing(pages: Pages) -> None:
    """Labels, landmarks, headings and contrast are as they have to be, on light and on dark ground."""
    found = []
    for name, page in pages(bypass_csp=True):  # the page's own policy lets nothing in, axe neither
        page.evaluate(AXE_SCRIPT)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found += [(name, scheme, rule["id"], rule["nodes"]) for rule in page.evaluate(AXE)]
    assert found == []


def test_a_phone_scrolls_down_only(pages: Pages) -> None:
    """No page is wider than a phone."""
    wide = [(name, page.evaluate(TOO_WIDE)) for name, page in pages(viewport=PHONE)]
    assert [found for found in wide if found[1]] == []


def test_what_customers_wrote_is_text(pages: Pages) -> None:
    """A planted script is shown as it was written, wherever it stands, and never runs."""
    shown = {}
    for name, page in pages():
        shown[name] = page.get_by_role("main").inner_text()
        assert page.locator("main").locator("script, img, b").count() == 0, name
    # as an externalid, a route, what the API says of it, the name of a field, and in what a customer wrote
    assert shown["interactions"].count(PLANTED) >= 3
    assert f"Interaction '{PLANTED}' is refused" in shown["overview"]
    assert f"Interaction '{PLANTED}' is refused" in shown["refused"]
    assert PLANTED[:30] in shown["rejections"]
    assert f"{SENTENCE} {PLANTED_SUBJECT}" in shown["refused"]
