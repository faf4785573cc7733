"""Recording jobs: repeats, duplicates, receipts, batches, and many writers at once."""

from collections import Counter
from itertools import groupby
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from tests.factories import Store, dispatch, release, settings, together
from tests.waiting import until
from worker.domain.meeting import Ask
from worker.domain.outcome import Refused
from worker.intake.record import Incoming, Taken, raw, take_in
from worker.store import record as recording
from worker.store.expiry import expire_holds
from worker.store.record import CrowdedError

OPEN = "('pending', 'dispatched', 'releasing', 'awaiting_dispatch')"


def take(store: Store, *jobs: Any, **options: Any) -> Taken:
    """Take jobs in as messages of one batch."""
    batch = [Incoming(job, f"m-{place}", f"place {place}") for place, job in enumerate(jobs)]
    return take_in(store.engine, settings(routes=frozenset("R")), "celery", batch, **options)


def job(externalid: str = "e", **fields: Any) -> dict[str, Any]:
    """Make a dispatch as a producer writes it."""
    return {"externalid": externalid, "route": "R", **fields}


def test_dispatch_is_written_whole(store: Store) -> None:
    """Everything that a dispatch names stands in its row, due at once."""
    ask = dispatch(
        requestid="d", provider="P", lane="backlog", extra={"smsplan": "S"}, linkeddata=None, route="R"
    )
    assert store.verdicts(ask) == ["opened"]
    row = store.row()
    assert (row.state, row.lane, row.rank, row.route, row.provider) == ("pending", "backlog", 2, "R", "P")
    assert row.request == {"routingdata": {"interactiontype": "nonlive"}, "extra": {"smsplan": "S"}}
    assert (row.dispatch_requestid, row.release_requestid, row.is_due, row.attempts) == ("d", None, True, 0)
    wire = (
        '{"action":"dispatch","requestid":"d","externalid":"e","route":"R",'
        '"routingdata":{"interactiontype":"nonlive"},"smsplan":"S"}'
    )
    assert row.bytes == len(wire)


def test_release_of_nothing_known_is_held(store: Store) -> None:
    """A release that comes first waits for its dispatch until the grace period is over."""
    store.record(release(requestid="r"), grace=100.0)
    row = store.row()
    assert (row.state, row.release_requestid, row.dispatch_requestid) == ("awaiting_dispatch", "r", None)
    assert 99 < (row.due_at - row.created_at).total_seconds() < 101
    assert row.release_requested_at is not None


def test_release_first_then_dispatch(store: Store) -> None:
    """The dispatch that a release waited for is cancelled without a call."""
    store.record(release())
    assert store.verdicts(dispatch()) == ["cancelled"]
    row = store.row()
    assert (row.state, row.reason, row.route, row.due_at) == (
        "cancelled",
        "released before its dispatch came",
        "R",
        None,
    )
    assert store.claim_any() is None


def test_same_requestid_again_changes_nothing(store: Store) -> None:
    """A job that comes again under its requestid is recognised, in its batch and later."""
    ask, bye = dispatch(requestid="d"), release(requestid="r")
    assert store.verdicts(ask, ask) == ["opened", "repeated"]
    store.deliver()
    assert store.verdicts(ask, bye, bye, ask) == ["repeated", "releasing", "repeated", "repeated"]
    store.deliver()
    assert store.verdicts(bye, ask) == ["repeated", "repeated"]
    assert store.states() == ["released"]


def test_own_requestid_again_is_the_same_batch(store: Store) -> None:
    """A batch whose commit was not heard of is told the second time what it was told the first time."""
    ask = dispatch(known=False)
    assert store.verdicts(ask) == store.verdicts(ask) == ["opened"]
    assert store.states() == ["pending"]


@pytest.mark.parametrize("other", [dispatch("other", "d"), release("e", "d"), release("other", "d")])
def test_requestid_of_another_job(store: Store, other: Ask) -> None:
    """A requestid that belongs to another externalid or action is refused, also in the same batch."""
    assert store.verdicts(dispatch(requestid="d"), other) == ["opened", "rejected"]
    [met] = store.record(other)
    assert (met.verdict, met.detail) == (
        "rejected",
        "requestid: belongs to another job already; take a fresh one",
    )
    assert store.counts() == {"pending": 1}


@pytest.mark.parametrize("named", ["theirs", "r"])
def test_release_names_what_is_no_dispatch_of_its_externalid(store: Store, named: str) -> None:
    """A release can't name another externalid's dispatch, nor a release."""
    store.record(dispatch("other", "theirs"), dispatch(), release(requestid="r"))
    [met] = store.record(release(dispatch_requestid=named))
    assert (met.verdict, met.detail) == (
        "rejected",
        "dispatch_requestid: is not a dispatch of this externalid",
    )


@pytest.mark.parametrize("apart", [True, False])
def test_release_names_a_dispatch_that_was_a_duplicate(store: Store, apart: bool) -> None:
    """A release for a dispatch that joined another's lifecycle releases that one."""
    asks = [dispatch(requestid="first"), dispatch(requestid="second"), release(dispatch_requestid="second")]
    if apart:
        store.record(asks[0])
        store.deliver()
        store.record(asks[1])
        assert store.verdicts(asks[2]) == ["releasing"]
        assert store.states() == ["releasing"]
    else:
        assert store.verdicts(*asks) == ["opened", "duplicate", "cancelled"]
        assert store.states() == ["cancelled"]


def test_look_ups_stay_on_their_indexes(store: Store) -> None:
    """A plan that was made while the table was empty is not kept for when it is full: a job costs a few rows."""
    read = "select seq_tup_read + idx_tup_fetch from pg_stat_user_tables where relname = 'interactions'"
    for batch in range(12):  # psycopg prepares what comes often, and Postgres then keeps the plan
        store.record(*(dispatch(f"early{batch}-{i}") for i in range(100)))
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.exec_driver_sql("truncate interactions")
        conn.exec_driver_sql("vacuum analyze interactions")
    for batch in range(6):
        store.record(*(dispatch(f"late{batch}-{i}") for i in range(500)))
    store.engine.dispose()  # a backend tells its statistics when it ends
    assert store.one(read) < 2_000  # 3,000 new jobs, and nothing there that they could meet


def test_duplicate_is_told_in_the_timeline(store: Store) -> None:
    """A duplicate sends nothing, but the lifecycle that it met says so."""
    store.record(dispatch())
    assert store.verdicts(dispatch()) == ["duplicate"]
    events = store.all("select event, detail from events where interaction_id = %(i)s", i=store.row().id)
    assert events == [("duplicate", "duplicate dispatch ignored: one is pending already")]


def test_redelivered_duplicate_after_the_lifecycle_ended(store: Store) -> None:
    """A duplicate that comes again when the lifecycle it met is over opens nothing."""
    store.record(dispatch())
    duplicate, nothing = dispatch(), release()
    store.deliver()
    assert store.verdicts(duplicate) == ["duplicate"]
    store.record(release())
    store.deliver()
    assert store.verdicts(nothing) == ["nothing"]
    assert store.verdicts(duplicate, nothing) == ["repeated", "repeated"]
    assert store.states() == ["released"]


def test_requestid_of_our_own_leaves_no_receipt(store: Store) -> None:
    """Nobody can send again what had no requestid from outside, so nothing is kept of it."""
    store.record(dispatch(), dispatch(known=False))
    assert store.one("select count(*) from receipts") == 0


def test_replaced_requestid_is_kept(store: Store) -> None:
    """A refused release goes again under the next job's requestid; the first one's repeat changes nothing."""
    first, second = release(requestid="r1"), release(requestid="r2")
    store.record(dispatch())
    store.deliver()
    store.record(first)
    refused(store)
    assert store.row().state == "release_failed"
    assert store.verdicts(second) == ["releasing"]
    assert store.row().release_requestid == "r2"
    assert store.verdicts(first, second) == ["repeated", "repeated"]


def refused(store: Store) -> None:
    """Have the next call refused."""
    from worker.domain.outcome import Refused  # noqa: PLC0415

    store.deliver(Refused, error="no")


def test_one_batch_in_its_order(store: Store) -> None:
    """Jobs of one externalid in one batch come to what they would have come to one by one."""
    verdicts = store.verdicts(dispatch(), release(), dispatch(), dispatch(), release(), release(), dispatch())
    assert verdicts == ["opened", "cancelled", "opened", "duplicate", "cancelled", "nothing", "opened"]
    assert store.states() == ["cancelled", "cancelled", "pending"]


def test_later_of_one_batch_is_the_newer(store: Store) -> None:
    """The last lifecycle of a batch has the highest id, whatever its requestid is: it is the newest."""
    store.record(dispatch(requestid="z"), release(), dispatch(requestid="a"))
    assert store.row().dispatch_requestid == "a"


def test_cancelled_in_its_batch_says_why(store: Store) -> None:
    """A lifecycle that begins and ends in one batch has its reason."""
    store.record(dispatch(), release())
    assert store.row().reason == "released before it was sent"


def test_again_opens_beside_the_dispatched_one(store: Store) -> None:
    """With the word again a dispatched lifecycle ends and a new one begins, in one step."""
    store.record(dispatch())
    store.deliver()
    assert store.verdicts(dispatch(again=True)) == ["opened"]
    assert store.states() == ["ended", "pending"]
    assert store.row().may_hold


def test_release_by_name(store: Store) -> None:
    """A release that names its dispatch waits for that one, beside another that is open."""
    store.record(dispatch(requestid="d1"))
    assert store.verdicts(release(dispatch_requestid="d2")) == ["held"]
    assert store.verdicts(dispatch(requestid="d2")) == ["cancelled"]
    assert store.states() == ["pending", "cancelled"]
    assert store.verdicts(release(dispatch_requestid="d1")) == ["cancelled"]


def test_release_by_name_in_one_batch_with_its_dispatch(store: Store) -> None:
    """A release that stands before its dispatch in one batch finds it all the same."""
    assert store.verdicts(release(dispatch_requestid="d"), dispatch(requestid="d")) == ["held", "cancelled"]
    assert store.states() == ["cancelled"]


def test_dispatch_waits_for_the_release_before_it(store: Store) -> None:
    """A dispatch that comes while its predecessor is being released is sent when that one has settled."""
    store.record(dispatch())
    store.deliver()
    assert store.verdicts(release(), dispatch(), dispatch()) == ["releasing", "waits", "duplicate"]
    store.deliver()
    assert store.states() == ["released", "pending"]
    assert (store.row().is_due, store.row().may_hold) == (True, False)


def test_import_takes_what_ever_was_there_as_a_duplicate(store: Store) -> None:
    """An import dispatches no second time what has been through already."""
    store.record(dispatch(), release())
    assert store.verdicts(dispatch(door="import")) == ["duplicate"]
    assert store.verdicts(dispatch(door="import", again=True)) == ["opened"]


def test_force_releases_what_is_not_known(store: Store) -> None:
    """A forced release is sent with the provider that the operator names."""
    assert store.verdicts(release(door="force", provider="P")) == ["releasing"]
    claimed = store.deliver()
    assert (claimed.provider, claimed.rows[0].action) == ("P", "release")
    assert store.row().state == "released"


def test_force_sends_a_held_release_as_a_job_of_its_own(store: Store) -> None:
    """A held release that an operator forces goes under the operator's requestid; both jobs stay known."""
    held, forced = release(requestid="r1"), release(requestid="r2", door="force", provider="P")
    assert store.verdicts(held, forced) == ["held", "releasing"]
    assert store.deliver().rows[0].requestid == "r2"
    assert store.verdicts(held, forced) == ["repeated", "repeated"]


def test_cancelled_successor_hides_no_failed_release(store: Store) -> None:
    """A release that failed is tried again, though a dispatch that waited for it was cancelled meanwhile."""
    store.record(dispatch())
    store.deliver()
    assert store.verdicts(release(), dispatch(), release()) == ["releasing", "waits", "cancelled"]
    store.deliver(Refused)
    assert store.states() == ["release_failed", "cancelled"]
    assert store.verdicts(release()) == ["releasing"]


@pytest.mark.parametrize("comes", [True, False], ids=["cancelled", "orphaned"])
def test_spent_hold_hides_nothing_that_may_be_held(store: Store, comes: bool) -> None:
    """A release held by name, once over, keeps none from an earlier lifecycle that VCC may hold."""
    store.record(dispatch("a"), dispatch("b"))
    store.claim()
    store.make_due()
    for _ in "ab":
        store.settle(store.claim(limit=1), Refused)
    for name in "ab":
        store.record(release(name, dispatch_requestid=f"d-{name}"), grace=1e-6)
        if comes:
            store.record(dispatch(name, f"d-{name}"))
    expire_holds(store.engine)
    assert store.states("a") == ["failed", "cancelled" if comes else "orphaned"]
    assert store.verdicts(release("a"), dispatch("b")) == ["releasing", "opened"]
    assert store.row("b").may_hold


def test_held_route_keeps_new_jobs(store: Store) -> None:
    """What comes in for a held route waits with the others."""
    store.run("insert into routes (route, held_at) values ('R', now())")
    store.record(dispatch())
    assert store.row().is_held


def test_big_batch(store: Store) -> None:
    """A batch of 5,000 jobs lands as a whole, in its order."""
    asks = [dispatch(f"e{n % 4_000}") for n in range(5_000)]
    verdicts = store.verdicts(*asks)
    assert verdicts == ["opened"] * 4_000 + ["duplicate"] * 1_000
    assert store.counts() == {"pending": 4_000}
    assert store.one("select count(*) from receipts") == 1_000


def test_nothing_to_record(store: Store) -> None:
    """An empty batch asks nobody anything."""
    assert store.record() == []


def test_many_writers_lose_nothing(store: Store) -> None:
    """Four writers with the same externalids in other orders: no job is lost, no externalid is open twice."""
    ids = [f"e{n}" for n in range(30)]

    def work(writer: int) -> list[str]:
        told: list[str] = []
        for turn in range(8):
            order = ids[:: 1 if (writer + turn) % 2 else -1]
            make = release if (writer + turn) % 3 == 0 else dispatch
            asks = [make(externalid, f"w{writer}-{turn}-{externalid}") for externalid in order]
            told += store.verdicts(*asks)
        return told

    told = Counter(verdict for one in together(*[lambda w=w: work(w) for w in range(4)]) for verdict in one)
    assert sum(told.values()) == 4 * 8 * 30
    assert told["rejected"] == told["repeated"] == 0
    kept = {
        requestid
        for (requestid,) in store.all(
            """select dispatch_requestid from interactions union select release_requestid from interactions
            union select requestid from receipts"""
        )
        if requestid
    }
    assert kept == {f"w{w}-{t}-{e}" for w in range(4) for t in range(8) for e in ids}
    crowd = store.all(
        f"select externalid from interactions where state in {OPEN} group by 1 having count(*) > 1"
    )
    assert crowd == []


def test_many_writers_of_one_requestid(store: Store) -> None:
    """A message that is delivered to four workers at once is one dispatch."""
    told = together(*[lambda: store.verdicts(dispatch("e", "d"), release("f", "r"))] * 4)
    assert store.counts() == {"pending": 1, "awaiting_dispatch": 1}
    assert Counter(verdict for one in told for verdict in one) == {"opened": 1, "held": 1, "repeated": 6}


def test_crowd_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that does not land in so many rounds is given back to its sender."""
    monkeypatch.setattr(recording, "ROUNDS", 0)
    with pytest.raises(CrowdedError, match="1 jobs did not land in 0 rounds"):
        store.record(dispatch())


# --- the door that all doors lead to ------------------------------------------------------------


def test_bad_jobs_are_kept_and_stop_nobody(store: Store) -> None:
    """What can't be recorded goes whole into rejections, with its reason; the others are recorded."""
    taken = take(
        store, job("a"), b"{broken", job("b", route="X"), job("c"), {"\x00": "\udfff"}, job("a", lane=1)
    )
    assert taken.verdicts == {"opened": 2, "rejected": 4}
    assert taken.due
    assert [verdict for verdict, _ in taken.details] == [
        "opened",
        *["rejected"] * 2,
        "opened",
        *["rejected"] * 2,
    ]
    kept = store.all("select door, place, reason, job from rejections order by id")
    assert [(r.door, r.place) for r in kept] == [("celery", f"place {n}") for n in (1, 2, 4, 5)]
    assert kept[0].job == b"{broken"
    assert kept[1].reason == "route: is 'X'; allowed are those in VCC_ROUTES"
    assert kept[3].job == b'{"externalid":"a","route":"R","lane":1}'


def test_field_with_a_nul_in_its_name_is_kept(store: Store) -> None:
    """A field's name that the database can't keep does not keep the job from its rejection."""
    assert take(store, {**job(), "a\0b": 1}).verdicts == {"rejected": 1}
    assert store.one("select job from rejections") == b'{"externalid":"e","route":"R","a\\u0000b":1}'


def test_job_without_a_requestid_goes_by_its_message(store: Store) -> None:
    """The message's id serves as the requestid, so that the message may come twice."""
    assert take(store, job()).verdicts == {"opened": 1}
    assert store.row().dispatch_requestid == "m-0"
    assert take(store, job()).verdicts == {"repeated": 1}


def test_requestid_of_another_job_is_a_rejection(store: Store) -> None:
    """What the store refuses is kept as what the door refuses."""
    taken = take(store, job("a", requestid="d"), job("b", requestid="d"))
    assert taken.verdicts == {"opened": 1, "rejected": 1}
    assert store.one("select reason from rejections").startswith("requestid: belongs to another job")


def test_nothing_due(store: Store) -> None:
    """Held releases and rejections wake nobody."""
    assert not take(store, {"externalid": "e", "action": "release"}, b"").due


def test_what_only_the_database_refuses_is_rejected_alone(store: Store) -> None:
    """Should the database refuse a job that was let in, that one alone is rejected."""
    store.run("alter table interactions add constraint odd check (externalid <> 'odd')")
    assert take(store, job("a"), job("odd"), job("b")).verdicts == {"opened": 2, "rejected": 1}
    assert store.one("select reason from rejections") == "job: the database refuses it (IntegrityError 23514)"


def test_database_that_is_away_rejects_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job is not rejected because the database could not be asked."""
    store.run(
        "create function away() returns trigger language plpgsql as $$ begin raise sqlstate '57P01'; end $$"
    )
    store.run("create trigger away before insert on interactions execute function away()")
    monkeypatch.setattr("worker.store.record.patiently", lambda work, **_: work())
    with pytest.raises(DBAPIError):
        take(store, job("a"))
    assert store.one("select count(*) from rejections") == 0


@pytest.mark.parametrize(
    ("odd", "kept"),
    [
        (b"\xff", b"\xff"),
        ({"a": 1}, b'{"a":1}'),
        ({"a": "\udfff"}, rb"{'a': '\udfff'}"),
        ([10**400], None),
    ],
)
def test_anything_has_bytes(odd: Any, kept: bytes | None) -> None:
    """Whatever comes as a job can be kept as bytes."""
    assert raw(odd) == (kept if kept is not None else str(odd).encode())


def test_verdicts_by_hand_and_by_batch_agree(store: Store) -> None:
    """A batch of jobs of several externalids comes to what each externalid alone would have come to."""
    asks = [make(externalid) for make in (dispatch, release, dispatch, dispatch) for externalid in "abc"]
    told = sorted(zip((ask.job.externalid for ask in asks), store.verdicts(*asks), strict=True))
    for _, each in groupby(told, key=lambda pair: pair[0]):
        assert sorted(verdict for _, verdict in each) == ["cancelled", "duplicate", "opened", "opened"]


def test_waiting_one_is_met(store: Store) -> None:
    """Jobs that come later meet the dispatch that waits: another is a duplicate, a release cancels it."""
    store.record(dispatch())
    store.deliver()
    store.record(release(), dispatch())
    assert store.verdicts(dispatch()) == ["duplicate"]
    assert store.verdicts(release()) == ["cancelled"]
    assert store.states() == ["releasing", "cancelled"]


def test_release_that_was_overtaken(store: Store) -> None:
    """A release that waits for a lock while a new lifecycle is opened meets the new one when it goes on."""
    store.record(dispatch())
    store.deliver()
    store.run("update interactions set state = 'ended'")

    def overtake() -> str:
        with store.engine.begin() as conn:
            conn.exec_driver_sql("select from interactions for update")
            conn.exec_driver_sql(
                """insert into interactions (externalid, state, route, dispatch_requestid, due_at)
                values ('e', 'pending', 'R', 'new', now())"""
            )
            until(lambda: blocked(store))
        return "overtaken"

    def wait_and_release() -> str:
        until(
            lambda: store.one(
                "select count(*) from pg_locks where relation = 'interactions'::regclass and mode = 'RowShareLock'"
            )
        )
        return store.verdicts(release())[0]

    assert together(overtake, wait_and_release) == ["overtaken", "cancelled"]
    assert store.states() == ["ended", "cancelled"]


def blocked(store: Store) -> bool:
    """Tell whether somebody waits for a lock."""
    return bool(store.one("select count(*) from pg_stat_activity where wait_event_type = 'Lock'"))


def test_dispatch_after_its_hold_expired(store: Store) -> None:
    """A dispatch whose release came first and was given up is not sent, and the timeline says so."""
    store.record(release(dispatch_requestid="late"))
    store.run("update interactions set state = 'orphaned', due_at = null")
    late = dispatch(requestid="late")
    assert store.verdicts(late) == ["nothing"]
    assert store.verdicts(late) == ["repeated"]
    [(event, detail)] = store.all("select event, detail from events")
    assert (event, "grace period is over" in detail) == ("nothing", True)
    assert store.states() == ["orphaned"]


def test_release_of_a_parked_row_that_vcc_may_hold(store: Store) -> None:
    """A release does not wait for the operator who holds the route of its dispatch."""
    store.record(dispatch())
    store.deliver()
    store.run("insert into routes (route, held_at) values ('R', now())")
    store.record(dispatch(again=True))
    assert store.verdicts(release()) == ["remembered"]
    assert store.one("select due_at <= now() from interactions where state = 'pending'")
