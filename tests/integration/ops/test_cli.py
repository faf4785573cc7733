"""What every command has in common: help, exit status, errors in one line, JSON alone on stdout."""

import subprocess
import sys

import psycopg
import pytest
from sqlalchemy.engine import make_url

from tests.integration.ops.conftest import Vcc
from worker.ops import cli
from worker.simulator.run import Background

COMMANDS = sorted(command.name or "" for command in cli.app.registered_commands)
NOTHING_LISTENS = "127.0.0.1:1"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_by_example(vcc: Vcc, command: str) -> None:
    """Every command's help says what it does and has an example of itself."""
    result = vcc(command, "--help")
    assert result.code == 0
    assert f"vcc {command}" in result.out.partition("Example")[2]


def test_the_commands_are_those_that_users_rely_on() -> None:
    """Names are fixed: scripts use them."""
    wanted = (
        "up import dispatch release show list retry pause resume stats check migrate prune worker beat flower"
    )
    assert set(wanted.split()) | {"simulate"} <= set(COMMANDS)


def test_help_imports_nothing_heavy() -> None:
    """``vcc --help`` is there at once because the database and Celery stay where they are."""
    heavy = "sqlalchemy celery pydantic httpx redis alembic psycopg".split()
    code = f"import sys, worker.ops.cli as c; s = c.run(['--help']); print(sorted(set({heavy}) & set(sys.modules)), s)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["list", "--state", "dispatchd"],
        ["list", "--limit", "0"],
        ["dispatch", "e"],
        ["import", "backlog.mbox", "--wait", "--dry-run"],
        ["release", "a", "b", "--requestid", "1"],
        ["release", "a", "--provider", "P"],
        ["simulate", "--retry-after", "3"],
        ["simulate", "--faults", '{"nonsense": 1}'],
        ["simulate", "--faults", "{"],
        ["dispatch", "e", "--route", "R", "--extra", "{"],
        ["show", "\udcff"],
    ],
    ids=" ".join,
)
def test_wrong_use_is_status_2(vcc: Vcc, arguments: list[str]) -> None:
    """What can't be meant is refused before anything is touched, and stdout stays empty."""
    result = vcc(*arguments)
    assert (result.code, result.out) == (2, "")
    assert "Usage: vcc" in result.err


def test_no_arguments_show_the_help(vcc: Vcc) -> None:
    """``vcc`` alone lists the commands."""
    result = vcc()
    assert "Commands:" in result.out + result.err


def test_a_missing_setting_is_named(vcc: Vcc) -> None:
    """Without DATABASE_URL the error says how to get one."""
    result = vcc("stats", "--json")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "error: DATABASE_URL is not set: set it, or run `vcc up` in this folder for an embedded server\n"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", "mysql://u:geheim@h/d"),
        ("DATABASE_URL", "postgresql://u:geheim@h:port/d"),
        ("REDIS_URL", "http://:geheim@h"),
        ("VCC_REGION", "geheim"),
    ],
)
def test_a_wrong_setting_is_named_without_its_value(
    vcc: Vcc, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """The error names the variable; what is in it may be a secret."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://h/d")
    monkeypatch.setenv(name, value)
    result = vcc("list")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"error: {name}: ")
    assert "geheim" not in result.err


def test_a_database_that_is_down_is_named_without_its_password(
    vcc: Vcc, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says where nothing answers, at once, and what to do."""
    monkeypatch.setenv("DATABASE_URL", f"postgresql://vcc:geheim@{NOTHING_LISTENS}/vcc")
    result = vcc("dispatch", "e", "--route", "R")
    assert (result.code, result.out) == (1, "")
    assert (
        result.err
        == f"error: can't reach the database at {NOTHING_LISTENS}: start it, or check DATABASE_URL\n"
    )


def test_a_wrong_password_and_a_missing_database_are_told_apart(
    vcc: Vcc, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has a remedy of its own; neither shows the password."""
    url = make_url(database_url)
    for wrong, words in (
        (url.set(password="geheim"), "refuses the user or the password"),
        (url.set(database="nowhere"), "there is no such database"),
    ):
        monkeypatch.setenv("DATABASE_URL", wrong.render_as_string(hide_password=False))
        result = vcc("list")
        assert result.code == 1
        assert words in result.err
        assert result.err.count("\n") == 1
        assert str(wrong.password) not in result.err


@pytest.fixture
def bare_database(database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a database that holds no table of ours."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("drop schema public cascade")
        conn.execute("create schema public")
    monkeypatch.setenv("DATABASE_URL", database_url)
    return database_url


def test_a_database_that_is_not_migrated_is_named(vcc: Vcc, bare_database: str, backlog: object) -> None:
    """Every command that needs tables says which command makes them."""
    for command in (
        ["list"],
        ["show", "e"],
        ["release", "e"],
        ["import", backlog, "--route", "R"],
        ["prune"],
    ):
        result = vcc(*command)
        assert (result.code, result.out) == (1, "")
        assert result.err == "error: the database is not migrated: run `vcc migrate`\n"


def test_migrate_says_what_it_did(vcc: Vcc, bare_database: str) -> None:
    """The first run applies, the second has nothing to do; afterwards the tables are there."""
    first, second = vcc("migrate", "--json"), vcc("migrate", "--json")
    assert (first.code, second.code) == (0, 0)
    assert "0001" in first.json["applied"]
    assert second.json == {"applied": []}
    assert vcc("migrate").out == "up to date already\n"
    assert vcc("list").out == "no such interaction\n"


def test_migrate_names_the_revisions(vcc: Vcc, bare_database: str) -> None:
    """People see which migrations were applied."""
    assert vcc("migrate").out.startswith("migrated: 0001")


def test_a_newer_database_is_not_touched(vcc: Vcc, bare_database: str) -> None:
    """A revision that this version does not know means: use the newer program."""
    assert vcc("migrate").code == 0
    with psycopg.connect(bare_database, autocommit=True) as conn:
        conn.execute("update alembic_version set version_num = 'f00'")
    result = vcc("migrate")
    assert result.code == 1
    assert result.err == "error: the database was migrated by a newer version of this program: use that one\n"


def test_an_error_of_the_database_is_named_by_its_code(
    vcc: Vcc, house: Background, database_url: str
) -> None:
    """An error that nothing is known about is told by its kind; its text might quote a row."""
    with psycopg.connect(database_url, autocommit=True) as conn:
        conn.execute("alter table rejections rename to geheim; create view rejections as select 1/0 as id,"
                     " now() as at, '' as door, '' as place, '' as reason")  # fmt: skip
    result = vcc("rejections")
    assert (result.code, result.out) == (1, "")
    assert "22012" in result.err
    assert "geheim" not in result.err


def test_an_unexpected_error_is_one_line(vcc: Vcc, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake of ours says so, names its kind only, and how to see more."""

    def broken() -> None:
        raise ZeroDivisionError("a customer's word")

    monkeypatch.setattr("worker.ops.resources.settings", broken)
    result = vcc("list")
    assert result.code == 1
    assert result.err.startswith("error: unexpected ZeroDivisionError: please report")
    assert "customer" not in result.err


def test_a_developer_sees_where_it_happened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With VCC_DEBUG the traceback is shown."""
    monkeypatch.setenv("VCC_DEBUG", "1")
    assert cli.run(["list"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_status_130(vcc: Vcc, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupted command says nothing of its own and ends as shells expect."""

    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("worker.ops.resources.settings", interrupted)
    assert vcc("list").code == 130
    monkeypatch.setattr(cli, "app", lambda *_, **__: interrupted())
    assert vcc("list").code == 130


def test_the_installed_command_works(house: Background) -> None:
    """``python -m worker.ops.cli`` is the command, with its status as the process's."""
    for arguments, code in ((["stats", "--json"], 0), (["show", "nobody"], 1), (["nonsense"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "worker.ops.cli", *arguments], check=False, capture_output=True, text=True
        )
        assert done.returncode == code
        assert "Traceback" not in done.stderr
