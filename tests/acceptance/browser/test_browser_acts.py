"""What an operator does, in a real browser against everything that runs; also where no script may run."""

import re
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.browser.conftest import Visit, enter, press
from tests.acceptance.browser.house import OPERATOR, RELEASED, SENTENCE, VIEWER, House
from tests.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Page

WITHOUT_TOO = pytest.mark.parametrize("scripts", [True, False], ids=["scripts", "no-scripts"])


def main(page: "Page") -> str:
    """Read what a page says."""
    return page.get_by_role("main").inner_text()


def find(page: "Page", externalid: str) -> None:
    """Look an externalid up, from wherever one is."""
    page.get_by_role("searchbox").fill(externalid)
    with page.expect_navigation():
        page.get_by_role("searchbox").press("Enter")


def test_an_externalid_is_looked_up(visit: Visit) -> None:
    """Whoever types an externalid sees its life, call by call: when, the outcome, the status, how long it took."""
    page = visit()
    find(page, RELEASED)
    assert page.get_by_role("heading", level=1).inner_text() == RELEASED
    moments = page.get_by_role("list", name="Timeline").get_by_role("listitem").all_inner_texts()
    assert [text.split()[2] for text in moments if "HTTP" not in text] == [
        "recorded",
        "dispatched",
        "release",
        "released",
    ]
    calls = [text for text in moments if "HTTP" in text]
    assert len(calls) == 2
    assert all(re.search(r"accepted HTTP 200 in \d+ ms", text) for text in calls)
    assert SENTENCE in main(page)


def test_an_externalid_that_nobody_knows(visit: Visit) -> None:
    """Of an externalid that is not there the page says so, and where else to look."""
    page = visit()
    find(page, "never-came")
    assert "No such interaction as never-came: see what was rejected" in main(page)


@WITHOUT_TOO
def test_pause_and_resume(house: House, visit: Visit, scripts: bool) -> None:
    """After a pause no call is made, whatever is enqueued; after the resume everything goes."""
    names = [f"while-paused-{scripts}-{number}" for number in range(5)]
    page = visit("/", java_script_enabled=scripts)
    page.get_by_label("Reason").fill("lunch <b>break</b>")
    press(page, "Pause")
    assert "Closed: paused: lunch <b>break</b>" in main(page)
    house.dispatch(*names)
    house.until_all("pending", *names)
    press(page, "Resume")
    assert "Open" in main(page)
    house.until_all("dispatched", *names)
    changes = house.ask(
        "select who, action, detail, extract(epoch from at) as at from audit order by id desc limit 2"
    )
    assert [change[:3] for change in changes] == [
        (OPERATOR, "resume", ""),
        (OPERATOR, "pause", "lunch <b>break</b>"),
    ]
    assert min(house.calls_for(names)) > changes[0].at


@WITHOUT_TOO
def test_retry_of_all_that_match(house: House, visit: Visit, scripts: bool) -> None:
    """Refused ones are filtered, counted and, when that is confirmed, tried again; others are left alone."""
    route, wanted = f"Returns {scripts}", "is refused"
    names = [f"return-{scripts}-{number}" for number in range(7)]
    others = [f"other-{scripts}-{number}" for number in range(2)]
    house.refuse(*names, route=route)
    house.refuse(*others)
    page = visit("/interactions", java_script_enabled=scripts)
    page.get_by_label("State").select_option("failed")
    page.get_by_label("Route").fill(route)
    page.get_by_label("Error contains").fill(wanted)
    press(page, "Show")
    assert sorted(page.locator("td.id a").all_inner_texts()) == names
    press(page, "Retry all that match")
    assert "Try 7 interactions again?" in main(page)
    assert f"route {route}, with a certain error" in main(page)
    assert set(house.states(*names)) == {"failed"}
    press(page, "Retry 7")
    house.until_all("dispatched", *names)
    assert set(house.states(*others)) == {"failed"}
    house.release(*names)
    house.until_all("released", *names)


def test_retry_of_a_few(house: House, visit: Visit) -> None:
    """Of those that are shown, some may be chosen; only these are tried again."""
    names = [f"chosen-{number}" for number in range(3)]
    house.refuse(*names, route="Choice")
    page = visit("/interactions?state=failed&route=Choice")
    page.get_by_label("Retry chosen-0").check()
    page.get_by_label("Retry chosen-2").check()
    press(page, "Retry the chosen")
    press(page, "Retry 2")
    house.until_all("dispatched", "chosen-0", "chosen-2")
    assert house.states("chosen-1") == ["failed"]


def test_a_held_route_is_let_go(house: House, visit: Visit) -> None:
    """A route that is held is named with what the API says, and let go by a button."""
    house.hold("Misspelt")
    page = visit("/")
    assert "No such route" in main(page)
    press(page, "Let route Misspelt go")
    assert "Misspelt" not in main(page)
    assert house.ask("select held_at from routes where route = 'Misspelt'") == []


def test_a_rejected_job_is_mended(house: House, visit: Visit) -> None:
    """A job that was rejected is mended and sent again: it is dispatched, and is among the rejections no longer."""
    house.enqueue(b'{"externalid": "mended", "rout": "Emails"}')
    until(lambda: house.rejected(b"mended"))
    page = visit("/rejections")
    with page.expect_navigation():
        page.get_by_role("main").get_by_role("link").first.click()
    press(page, "Send again")
    assert "Rejected again: rout: is no field of a job" in main(page)
    job = page.get_by_label("The job, as JSON")
    job.fill(job.input_value().replace("rout", "route"))
    press(page, "Send again")
    house.until_all("dispatched", "mended")
    assert not house.rejected(b"mended")


def test_a_viewer_changes_nothing(house: House, visit: Visit) -> None:
    """A viewer has no button that changes anything, sees no customers' words, and is refused a form of their own."""
    page = visit("/", user=VIEWER)
    (released,) = house.ask("select id from interactions where externalid = %(e)s", e=RELEASED)
    rejected = house.ask("select id from rejections order by id limit 1")[0]
    paths = ["/", "/interactions?state=failed", f"/interactions/{released.id}", f"/rejections/{rejected.id}"]
    for path in paths:
        page.goto(path)
        assert page.locator("main form[method=post]").count() == 0, path
        assert SENTENCE not in page.content()
        assert "What the API said" not in page.content()
    token = page.locator("input[name=csrf]").first.input_value()  # what logs out
    for path in ("/pause", "/resume", "/retry", f"/rejections/{rejected.id}"):
        form = {"csrf": token, "reason": "forged", "id": str(released.id), "confirm": "yes", "job": "{}"}
        forged = page.request.post(path, form=form, headers={"origin": house.url})
        assert forged.status == 403, path
    assert house.ask("select from gate where paused_at is not null") == []
    assert house.ask("select from audit where who = %(name)s and action <> 'login'", name=VIEWER) == []


def test_the_page_refreshes_itself(house: House, visit: Visit) -> None:
    """What has changed is there without a reload; who is filling something in is not disturbed."""
    page = visit("/interactions?externalid=comes-later")
    page.clock.install()
    page.reload()
    assert "No such interaction" in main(page)
    house.dispatch("comes-later")
    house.until_all("dispatched", "comes-later")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.get_by_label("Route").fill("somewhere")
    page.clock.run_for(20_000)
    assert asked == []
    page.get_by_label("Route").fill("")
    page.get_by_label("Route").blur()
    page.evaluate("window.loaded = 'once'")
    page.get_by_role("main").click()
    page.clock.run_for(6_000)
    page.get_by_role("row", name="comes-later").wait_for()
    assert page.evaluate("window.loaded") == "once"


def test_a_page_that_is_not_renewed_says_so(visit: Visit) -> None:
    """What is shown may be out of date when the page does not answer, and that stands there until it does."""
    page = visit("/")
    page.clock.install()
    page.reload()
    page.get_by_role("cell").first.click()  # which stops nothing
    note = page.get_by_text("Not renewed since")
    page.route("**/*", lambda route: route.abort())
    until(lambda: page.clock.run_for(6_000) or note.is_visible())
    page.unroute_all()
    until(lambda: page.clock.run_for(6_000) or not note.is_visible())


def test_logged_out_elsewhere(visit: Visit) -> None:
    """Who has logged out in one tab is logged out in the others: nothing goes on being shown there."""
    page = visit("/login", user="")
    page.clock.install()
    enter(page, OPERATOR)
    other = page.context.new_page()
    other.goto("/")
    with other.expect_navigation():
        other.get_by_role("button", name="Log out").click()
    page.bring_to_front()
    page.clock.run_for(6_000)
    page.wait_for_url("**/login**")
