"""What an operator does, in a real browser against everything that runs; also where no script may run."""

from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from tests.acceptance.browser.conftest import Visit
from tests.acceptance.browser.house import HELD, OPERATOR, PASSWORD, PLANTED, RELEASED, SENTENCE, VIEWER, House
from tests.waiting import until

WITHOUT = pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no-scripts"])


def test_an_externalid_is_looked_up(house: House, visit: Visit) -> None:
    """Whoever types an externalid sees its life: each event and each call, with what the API said."""
    page = visit()
    search(page, RELEASED)
    expect(page.get_by_role("heading", level=1)).to_contain_text(RELEASED)
    timeline = page.get_by_role("list", name="Timeline")
    expect(timeline).to_contain_text("dispatched")
    expect(timeline).to_contain_text("200")


@WITHOUT
def test_pause_and_resume(house: House, visit: Visit, scripts: bool) -> None:
    """After a pause no call is made, whatever is enqueued; after the resume everything goes."""
    names = [f"while-paused-{scripts}-{number}" for number in range(5)]
    page = visit("/", java_script_enabled=scripts)
    page.get_by_label("Reason").fill("lunch <b>break</b>")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("main")).to_contain_text("lunch <b>break</b>")
    house.dispatch(*names)
    house.until_all("pending", *names)
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    house.until_all("dispatched", *names)
    (resumed,) = house.ask("select extract(epoch from max(at)) as at from audit where action = 'resume'")
    assert min(house.calls_for(names)) > resumed.at


@WITHOUT
def test_retry_of_all_that_match(house: House, visit: Visit, scripts: bool) -> None:
    """Refused rows are filtered, counted, tried again once that is confirmed, and released."""
    route = f"Returns {scripts}"
    names = [f"return-{scripts}-{number}" for number in range(7)]
    house.stand.simulator.faults(poison=names)
    house.dispatch(*names, route=route)
    house.until_all("failed", *names)
    house.stand.simulator.clear_faults()
