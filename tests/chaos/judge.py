"""The judge: holds the table against the API's own book, job by job."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.load import Plan
from tests.chaos.system import System

ENDS: dict[str, list[str]] = {
    # what the API has processed of an interaction in a state that the load can end in
    "dispatched": ["dispatch"],
    "released": ["dispatch", "release"],
    "cancelled": [],
}
HELD = "awaiting_dispatch"


@dataclass
class Verdict:
    """What is wrong, with examples; and what doors had answered, but nobody recorded.

    Attributes:
        counts: lost, double, stuck, wrong.
        examples: a few of each.
        unrecorded: jobs by door of which the table knows nothing.
        states: interactions by state.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    unrecorded: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)

    def blame(self, what: str, externalid: str, why: str) -> None:
        """Count something that is wrong."""
        self.counts[what] += 1
        if self.counts[what] <= 5:
            self.examples.append(f"{what}: {externalid}: {why}")


def judge(system: System, plan: Plan, *, complete: bool) -> Verdict:
    """Judge every externalid of the plan.

    Args:
        system: at rest.
        plan: what was sent.
        complete: everything must have been recorded by now, and dispatched exactly once or cancelled.
    """
    verdict = Verdict()
    book = system.book(full=True)
    rows: dict[str, list[Any]] = {}
    for externalid, state, provider in system.rows(
        "select externalid, state::text, provider from interactions order by id"
    ):
        rows.setdefault(externalid, []).append((state, provider))
        verdict.states[state] += 1
    for externalid in sorted(plan.externalids | rows.keys()):
        _judge_one(verdict, externalid, rows.get(externalid, []), book["ledger"].get(externalid, []))
        if complete and externalid in plan.externalids:
            _judge_end(verdict, externalid, rows.get(externalid, []), externalid in plan.released)
    for externalid in book["ledger"].keys() - rows.keys():
        verdict.blame("wrong", externalid, "the API has it, and the table does not know it")
    if book["redispatched"]:
        verdict.blame("double", "(any)", f"{book['redispatched']} dispatches of what was dispatched")
    if book["releases_without_provider"] or book["unknown_releases"]:
        verdict.blame("wrong", "(any)", "releases that found nothing, or under the wrong provider")
    if rejected := system.rows("select count(*) from rejections")[0][0]:
        verdict.blame("wrong", "(any)", f"{rejected} good jobs were rejected")
    _count_unrecorded(system, plan, verdict)
    return verdict


def _judge_one(verdict: Verdict, externalid: str, rows: list[Any], entries: list[Any]) -> None:
    actions = [entry["action"] for entry in entries]
    if actions.count("dispatch") > 1 or actions.count("release") > 1:
        verdict.blame("double", externalid, f"the API processed {', '.join(actions)}")
        return
    if len({entry["provider"] for entry in entries}) > 1:
        verdict.blame("wrong", externalid, "released under another provider than dispatched")
    if len(rows) > 1:
        verdict.blame("wrong", externalid, f"has {len(rows)} lifecycles: {', '.join(s for s, _ in rows)}")
    for state, _ in rows[:1]:
        if state == HELD and not actions:
            continue  # its dispatch was not recorded
        if state not in ENDS:
            verdict.blame(
                "stuck" if state in ("pending", "releasing", "waiting") else "wrong", externalid, state
            )
        elif actions != ENDS[state]:
            missing = len(actions) < len(ENDS[state])
            verdict.blame(
                "lost" if missing else "wrong",
                externalid,
                f"{state}, but the API processed {', '.join(actions) or 'nothing'}",
            )


def _judge_end(verdict: Verdict, externalid: str, rows: list[Any], released: bool) -> None:
    state = rows[0][0] if rows else "unknown"
    if state not in (("released", "cancelled") if released else ("dispatched",)):
        verdict.blame("lost", externalid, f"ends as {state}, {'with' if released else 'without'} a release")


def _count_unrecorded(system: System, plan: Plan, verdict: Verdict) -> None:
    known = {
        requestid
        for (requestid,) in system.rows(
            """select dispatch_requestid from interactions
                where dispatch_requestid is not null and state <> 'awaiting_dispatch'
            union all select release_requestid from interactions where release_requestid is not null
            union all select requestid from receipts"""
        )
    }
    for step in plan.steps:
        if step.job["requestid"] not in known:
            verdict.unrecorded[step.door] += 1
