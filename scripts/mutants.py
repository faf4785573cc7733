"""What ``scripts/mutants`` does: copies of the tree, a PostgreSQL for the tests that need one, and the sums.

Each module is held against the fast tests that are about it. The mutants are made and tried by ``mutants_run.py``, in
a process for each group: nothing of the working tree is imported there, and nothing of the copy here.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from worker import embedded

ROOT = Path(__file__).resolve().parents[1]
LEAST = 90
"""Percent of a module's mutants that the tests have to kill."""

ALIVE = ("survived", "no tests")


@dataclass(frozen=True)
class Group:
    """Modules that are held against the same tests."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    database: bool = False


GROUPS = (
    Group(
        ("domain/backoff", "domain/lifecycle", "domain/meeting", "domain/settlement"),
        tuple(
            f"tests/unit/domain/test_{name}.py" for name in ("backoff", "lifecycle", "meeting", "settlement")
        ),
    ),
    Group(("vonage/classify",), ("tests/unit/vonage/test_classify.py",)),
    Group(("delivery/pack",), ("tests/unit/delivery",)),
    Group(
        ("domain/job", "domain/refusal", "domain/schema"),
        ("tests/unit/domain/test_job.py", "tests/unit/docs/test_schema.py"),
    ),
    Group(
        ("store/settle",),
        tuple(f"tests/integration/store/test_store_{name}.py" for name in ("settle", "gate")),
        database=True,
    ),
)


def main() -> int:
    """Try the mutants of the modules that were asked for; 1 where too many live."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the copies go
    tried: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="vcc-mutants-", ignore_cleanup_errors=True) as home:
        Path(home).chmod(0o711)  # PostgreSQL runs as another user where this one is root
        for number, group in enumerate(GROUPS):
            if modules := chosen(group.modules, sys.argv[1:]):
                tried += hunt(Path(home) / str(number), group, modules)
    if not tried:
        print(f"no such module; there are {' '.join(name for g in GROUPS for name in g.modules)}")
        return 2
    return tell(tried)


def chosen(modules: tuple[str, ...], wanted: list[str]) -> list[str]:
    """Choose the modules that were asked for: all, or those that a word is the end of."""
    words = [f"/{word.removesuffix('.py').removeprefix('worker/')}" for word in wanted]
    return [f"worker/{name}.py" for name in modules if not words or f"/{name}".endswith(tuple(words))]


def hunt(home: Path, group: Group, modules: list[str]) -> list[dict[str, str]]:
    """Try a group's mutants in a copy of the tree; each with its module, its diff and what became of it."""
    tree, results = home / "tree", home / "results.json"
    shutil.copytree(
        ROOT, tree, ignore=shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "dist", "build")
    )
    with (tree / "pyproject.toml").open("a") as config:
        config.write(settings(group, modules))
    with ExitStack() as stack, (home / "mutmut.log").open("w+") as log:
        env = {name: value for name, value in os.environ.items() if name not in ("DATABASE_URL", "REDIS_URL")}
        if group.database:
            env["DATABASE_URL"] = stack.enter_context(embedded.postgres(home, durable=False)).url
        print(f"{' '.join(modules)} ...", flush=True)
        command = [sys.executable, str(ROOT / "scripts" / "mutants_run.py"), str(results)]
        if subprocess.run(command, cwd=tree, env=env, stdout=log, stderr=log, check=False).returncode:
            log.seek(0)
            sys.exit(log.read()[-5_000:])
    found: list[dict[str, str]] = json.loads(results.read_text())
    return found


def settings(group: Group, modules: list[str]) -> str:
    """Write mutmut's settings.

    Each mutant is tried in a process in which no test ran before: rows that are parameters of a test are changed by
    it. Hypothesis finds the same examples every time, however busy the machine is.
    """
    kept = ["docs", "migrations", "scripts", "celeryconfig.py", "README.md", "alembic.ini"]
    quiet = ["-p", "no:xdist", "--no-cov", "--hypothesis-profile=ci"]
    return f"""
[tool.mutmut]
source_paths = ["worker"]
only_mutate = {json.dumps(modules)}
also_copy = {json.dumps(kept)}
pytest_add_cli_args = {json.dumps(quiet)}
pytest_add_cli_args_test_selection = {json.dumps(group.tests)}
process_isolation = "forkserver"
"""


def tell(tried: list[dict[str, str]]) -> int:
    """Print the survivors and the sums; 1 where a module is under ``LEAST``."""
    alive, all_of = Counter[str](), Counter[str]()
    for mutant in tried:
        all_of[mutant["module"]] += 1
        if mutant["status"] in ALIVE:
            alive[mutant["module"]] += 1
            print(f"\n{mutant['status']}: {mutant['name']}\n{mutant['diff']}")
    print(f"\n{'':28} mutants  killed  survived")
    for name, number in [*all_of.items(), ("all", all_of.total())]:
        lost = alive.total() if name == "all" else alive[name]
        print(f"{name:28} {number:7,} {100 * (number - lost) / number:6.1f} % {lost:8,}")
    return int(any(100 * alive[name] > (100 - LEAST) * number for name, number in all_of.items()))


if __name__ == "__main__":
    sys.exit(main())
