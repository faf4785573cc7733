"""The guard, with real processes; kill -9 wherever it can strike."""

import os
import pwd
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.waiting import until
from worker import guard

ROOT = Path(guard.__file__).parents[1]
SLEEP = [sys.executable, "-c", "import time; time.sleep(300)"]
STUBBORN = """
import signal, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(300)
"""
PARENT = """
import subprocess, sys
from worker import guard
guarded = guard.spawn(sys.argv[1:], stdout=subprocess.DEVNULL)
print(guarded.guard_pid, guarded.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run guards with ``site``, through which coverage reaches them; the servers' guards run as always."""
    monkeypatch.setattr(guard, "PYTHON", (sys.executable,))


def gone(pid: int) -> bool:
    """Tell whether a process has ended; as a zombie it has."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def parent(code: str, *command: str) -> subprocess.Popen[str]:
    """Start a process that starts the command under guard, and prints the pids of both."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def pids(process: subprocess.Popen[str]) -> list[int]:
    """Read what ``parent`` prints."""
    assert process.stdout
    return [int(word) for word in process.stdout.readline().split()]


def close(process: subprocess.Popen[str]) -> None:
    """Reap a parent and close its pipes."""
    process.kill()
    process.communicate()


def test_status_is_the_commands() -> None:
    """A command's exit status is the guard's."""
    assert guard.spawn([sys.executable, "-c", "raise SystemExit(7)"]).wait(120) == 7


def test_status_of_a_signal_is_128_and_more() -> None:
    """A command that died by a signal has the status that shells give to it."""
    assert guard.spawn([sys.executable, "-c", "import os; os.kill(os.getpid(), 6)"]).wait(120) == 134


def test_poll_tells_running_from_ended() -> None:
    """While the command runs there is no status; after it was stopped there is."""
    guarded = guard.spawn(SLEEP)
    assert guarded.poll() is None
    assert guarded.stop() == 128 + signal.SIGTERM
    assert guarded.poll() == 128 + signal.SIGTERM
    assert gone(guarded.pid)
    assert gone(guarded.guard_pid)


def test_stop_uses_the_signal_asked_for() -> None:
    """A command that wants another signal than SIGTERM gets that."""
    assert guard.spawn(SLEEP, stop_signal=signal.SIGUSR1).stop() == 128 + signal.SIGUSR1


def test_command_has_the_environment_and_folder_given(tmp_path: Path) -> None:
    """Environment, folder and output are those that were asked for; stdin is empty."""
    code = "import os, sys; print(os.environ['WHO'], os.getcwd(), repr(sys.stdin.read()))"
    with (tmp_path / "out").open("wb") as out:
        env = {**os.environ, "WHO": "me"}
        assert guard.spawn([sys.executable, "-c", code], env=env, cwd=tmp_path, stdout=out).wait(120) == 0
    assert (tmp_path / "out").read_text() == f"me {tmp_path} ''\n"


def test_command_that_does_not_exist_is_named() -> None:
    """What can't be started raises at once, with the command's name."""
    with pytest.raises(OSError, match="no-such-program could not be started"):
        guard.spawn(["/no-such-program"])


def test_guard_that_can_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard that ends before it began is an error, not a command that seems to run."""
    monkeypatch.setattr(guard, "PYTHON", ("false",))
    with pytest.raises(OSError, match="ended with status 1 before the command started"):
        guard.spawn(SLEEP)


def stubborn(tmp_path: Path, grace: float) -> guard.Guarded:
    """Start a command that ignores every request to stop, and wait until it does."""
    with (tmp_path / "out").open("wb") as out:
        guarded = guard.spawn([sys.executable, "-c", STUBBORN], stdout=out, grace=grace)
    until((tmp_path / "out").read_text)
    return guarded


def test_stubborn_command_is_killed_after_its_grace(tmp_path: Path) -> None:
    """A command that ignores the stop signal is killed when its grace is over."""
    assert stubborn(tmp_path, grace=0.1).stop() == 128 + signal.SIGKILL


def test_stop_has_an_end(tmp_path: Path) -> None:
    """Where the grace is longer than the parent wants to wait, command and guard are killed."""
    guarded = stubborn(tmp_path, grace=600)
    assert guarded.stop(timeout=0.1) == 128 + signal.SIGKILL
    until(lambda: gone(guarded.pid))


def test_frozen_command_can_be_stopped(tmp_path: Path) -> None:
    """A command that was halted is woken, so that it can do what it does on its stop signal."""
    orderly = STUBBORN.replace("signal.SIG_IGN", "lambda *_: sys.exit(5)")
    with (tmp_path / "out").open("wb") as out:
        guarded = guard.spawn([sys.executable, "-c", orderly], stdout=out)
    until((tmp_path / "out").read_text)
    os.kill(guarded.pid, signal.SIGSTOP)
    assert guarded.stop() == 5


def test_closed_pipe_alone_stops_the_command() -> None:
    """It is the pipe that tells the guard, at once, whether or not the parent is seen to be gone."""
    guarded = guard.spawn(SLEEP)
    assert guarded._guard.stdin
    guarded._guard.stdin.close()
    assert guarded.wait(120) == 128 + signal.SIGTERM


def test_kill_takes_the_commands_children() -> None:
    """``kill`` ends the command and what it started, those with a session of their own too."""
    guarded = guard.spawn(["sh", "-c", "sleep 300 & setsid sleep 300 & wait"])
    until(lambda: len(guard.descendants(guarded.pid)) == 2)
    children = guard.descendants(guarded.pid)
    assert guarded.kill() == 128 + signal.SIGKILL
    assert all(map(gone, children))
    assert guarded.kill() == 128 + signal.SIGKILL  # once more does no harm


def test_nothing_is_left_of_a_command_that_ended(tmp_path: Path) -> None:
    """What a command leaves behind in the background ends with it."""
    with (tmp_path / "out").open("wb") as out:
        assert guard.spawn(["sh", "-c", "setsid sleep 300 & echo $!"], stdout=out).wait(120) == 0
    assert gone(int((tmp_path / "out").read_text()))


def test_everything_ends_when_the_parent_is_killed() -> None:
    """After kill -9 of the parent neither the guard nor the command is left."""
    process = parent(PARENT, *SLEEP)
    both = pids(process)
    close(process)
    until(lambda: all(map(gone, both)))


def test_everything_ends_when_a_parent_that_forked_is_killed() -> None:
    """A fork of the parent, which holds its end of the pipe open, does not keep the command alive."""
    code = PARENT.replace("sys.stdin.read()", "import os; os.fork(); sys.stdin.read()")
    process = parent(code, *SLEEP)
    both = pids(process)
    until(lambda: psutil.Process(process.pid).children())
    process.kill()
    until(lambda: all(map(gone, both)))
    close(process)


def test_everything_ends_when_the_parent_is_killed_while_the_guard_starts() -> None:
    """A parent that dies before the guard has done anything leaves nothing either."""
    mark = f"mark-{uuid.uuid4()}"
    code = """
import os, subprocess, sys
from worker import guard
start = subprocess.Popen
def start_and_die(*args, **options):
    start(*args, **options)
    os.kill(os.getpid(), 9)
subprocess.Popen = start_and_die
guard.spawn(sys.argv[1:])
"""
    died = subprocess.run([sys.executable, "-c", code, *SLEEP, mark], cwd=ROOT, check=False)
    assert died.returncode == -signal.SIGKILL
    until(
        lambda: not any(mark in " ".join(p.info["cmdline"] or ()) for p in psutil.process_iter(["cmdline"]))
    )


def test_command_ends_when_the_guard_is_killed() -> None:
    """After kill -9 of the guard the command is not left alone (Linux)."""
    guarded = guard.spawn(SLEEP)
    os.kill(guarded.guard_pid, signal.SIGKILL)
    assert guarded.wait(120) == 128 + signal.SIGKILL
    until(lambda: gone(guarded.pid))


def test_guard_asked_to_end_stops_the_command() -> None:
    """A signal to the guard reaches the command as its stop signal."""
    guarded = guard.spawn(SLEEP)
    os.kill(guarded.guard_pid, signal.SIGINT)
    assert guarded.wait(120) == 128 + signal.SIGTERM


def test_command_is_out_of_the_terminals_reach() -> None:
    """Parent, guard and command are in sessions of their own: the terminal's Ctrl-C meets the parent alone."""
    guarded = guard.spawn(SLEEP)
    assert len({os.getsid(0), os.getsid(guarded.guard_pid), os.getsid(guarded.pid)}) == 3
    guarded.stop()


def test_descriptors_to_keep_reach_the_command() -> None:
    """A file that is to be kept open is open in the command."""
    reading, writing = os.pipe()
    code = f"import os; os.write({writing}, b'here')"
    assert guard.spawn([sys.executable, "-c", code], keep=[writing]).wait(120) == 0
    assert os.read(reading, 10) == b"here"
    os.close(reading)
    os.close(writing)


def test_command_runs_as_another_user_if_we_may(tmp_path: Path) -> None:
    """Root can have a command run as somebody else; for others that is an error that says so."""
    if os.geteuid() != 0:
        with pytest.raises(OSError, match="could not be started"):
            guard.spawn(["id", "-u"], user="nobody")
        return
    with (tmp_path / "out").open("wb") as out:
        assert guard.spawn(["id", "-u"], user="nobody", stdout=out).wait(120) == 0
    assert int((tmp_path / "out").read_text()) == pwd.getpwnam("nobody").pw_uid
