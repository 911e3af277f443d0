"""`shmroute run`: the command beside its watcher, with real processes and signals."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from shmroute import Reader
from shmroute.supervise.lifeline import Lifeline
from tests.processes import bound, children, command_line, is_running
from tests.supervise.running import MODEL, Manifests, Run, memory_of, python, run, until, writer

TELL_SIGNALS = """
import os, signal, time
for number in (1, 2, 3, 10, 12, 15, 21, 22, 28):
    signal.signal(number, lambda got, _: print(signal.Signals(got).name))
print(os.getpid())
while True:
    time.sleep(0.05)
"""
"""A command that prints its process id, then each signal that it receives."""

SLEEP = "import os, time; print(os.getpid()); time.sleep(60)"

RESOLVE_IN_A_LOOP = f"""
import os, shmroute, time
print(os.getpid())
app = ""
while True:
    route = shmroute.resolve({MODEL!r})
    if route.app != app:
        app = route.app
        print(app)
    time.sleep(0.005)
"""
"""A command that prints its process id, then each app that the model moves to."""


# --- starting and ending -----------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 9])
def test_run_ends_with_the_commands_exit_code_and_leaves_nothing(area: str, manifests: Manifests, code: int) -> None:
    with run(area, manifests.path, python(f"raise SystemExit({code})")) as running:
        assert running.wait() == code
    assert memory_of(area) == []


def test_exit_code_is_128_plus_the_signal_that_ended_the_command(area: str, manifests: Manifests) -> None:
    with run(area, manifests.path, python("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")) as running:
        assert running.wait() == 128 + signal.SIGKILL


def test_a_command_that_is_not_found_ends_run_with_127(area: str, manifests: Manifests) -> None:
    with run(area, manifests.path, ["no-such-command"]) as running:
        assert running.wait() == 127
    assert "no-such-command: command not found" in running.errors[-1]
    assert memory_of(area) == []


def test_a_command_that_cannot_be_executed_ends_run_with_126(area: str, manifests: Manifests, tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("no program")
    with run(area, manifests.path, [str(tmp_path / "plain")]) as running:
        assert running.wait() == 126


def test_the_command_finds_the_first_snapshot_in_its_area(area: str, manifests: Manifests) -> None:
    code = f"import os, shmroute; print(os.environ['SHMROUTE_AREA'], shmroute.resolve({MODEL!r}).app)"
    with run(area, manifests.path, python(code)) as running:
        assert running.wait() == 0
    assert running.lines == [f"{area} iiot"]


def test_the_command_starts_without_routes_when_none_come_in_time(area: str, tmp_path: Path) -> None:
    code = f"import shmroute\ntry: shmroute.resolve({MODEL!r})\nexcept shmroute.NotReady: print('not ready')"
    with run(area, tmp_path / "missing", python(code), "--wait", "0.5") as running:
        assert running.wait() == 0
    assert running.lines == ["not ready"]
    assert any("the command starts without any" in line for line in running.errors), running.errors


def test_invalid_watcher_options_end_run_before_the_command_starts(area: str, manifests: Manifests) -> None:
    with run(area, manifests.path, python("print('started')"), "-n", "one", "--all-namespaces") as running:
        assert running.wait() == 2
    assert running.lines == []
    assert any("exclude each other" in line for line in running.errors)


def test_options_from_variables_do_not_appear_in_the_process_list(area: str, manifests: Manifests) -> None:
    secret = {"SHMROUTE_REDIS": "redis://:secret@127.0.0.1:1/0"}
    with run(area, manifests.path, python(SLEEP), "--resync", "77", environment=secret) as running:
        running.line()
        assert "--resync 77" in command_line(running.watcher)
        assert "secret" not in command_line(running.watcher)
        running.send(signal.SIGTERM)
        running.wait()


def test_inherited_sockets_reach_the_command(area: str, manifests: Manifests) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        number = listener.fileno()
        code = f"import socket; print(socket.socket(fileno={number}).getsockname()[1])"
        with run(area, manifests.path, python(code), pass_fds=(number,)) as running:
            assert running.wait() == 0
        assert running.lines == [str(listener.getsockname()[1])]


# --- signals -----------------------------------------------------------------------------------------------


def test_every_signal_a_server_acts_on_reaches_the_command(area: str, manifests: Manifests) -> None:
    names = ["SIGHUP", "SIGINT", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTERM", "SIGTTIN", "SIGTTOU", "SIGWINCH"]
    with run(area, manifests.path, python(TELL_SIGNALS)) as running:
        pid = int(running.line())
        for number, name in enumerate(names, 1):
            running.send(signal.Signals[name])
            assert running.line(number) == name
        os.kill(pid, signal.SIGKILL)
        running.wait()


def test_a_signal_that_was_ignored_from_the_start_stays_ignored(area: str, manifests: Manifests) -> None:
    code = "import signal; print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN); import time; time.sleep(60)"
    ignoring = ["bash", "-c", 'trap "" HUP; exec "$@"', "bash"]
    command = [sys.executable, "-m", "shmroute", "run", "--area", area, "--manifests", str(manifests.path), "--"]
    process = subprocess.Popen(bound([*ignoring, *command, *python(code)]), stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_run_during_the_wait_for_the_first_snapshot(area: str, tmp_path: Path, number: int) -> None:
    with run(area, tmp_path / "missing", python("print('started')")) as running:
        writer(area)
        running.send(number)
        assert running.wait() == 128 + number
    assert running.lines == []
    assert memory_of(area) == []


def test_ctrl_c_reaches_the_command_once_and_kill_does_too(area: str, manifests: Manifests) -> None:
    own, theirs = pty.openpty()
    attributes = termios.tcgetattr(theirs)
    attributes[3] |= termios.ISIG
    termios.tcsetattr(theirs, termios.TCSANOW, attributes)
    become = (
        "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        " os.execv(sys.argv[1], sys.argv[1:])"
    )
    arguments = ["-m", "shmroute", "run", "--area", area, "--manifests", str(manifests.path), "--"]
    process = subprocess.Popen(
        bound([sys.executable, "-c", become, sys.executable, *arguments, *python(TELL_SIGNALS)]),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    running = Run(process, area)
    try:
        pid = int(running.line())
        os.write(own, b"\x03")
        assert running.line(1) == "SIGINT"
        running.send(signal.SIGUSR1)
        assert running.line(2) == "SIGUSR1", "Ctrl-C came once"
        running.send(signal.SIGINT)
        assert running.line(3) == "SIGINT"
        os.kill(pid, signal.SIGKILL)
        assert running.wait() == 128 + signal.SIGKILL
    finally:
        process.kill()
        running.wait()
        os.close(own)
        os.close(theirs)


# --- the watcher -------------------------------------------------------------------------------------------


def test_dead_watcher_is_restarted_and_the_command_sees_new_routes(area: str, manifests: Manifests) -> None:
    with run(area, manifests.path, python(RESOLVE_IN_A_LOOP)) as running:
        assert running.line(1) == "iiot"
        first = running.watcher
        os.kill(first, signal.SIGKILL)
        manifests.write("iiot2")
        assert running.line(2) == "iiot2"
        assert running.watcher != first
        running.send(signal.SIGTERM)
        running.wait()
    assert memory_of(area) == []


# --- nothing is left ---------------------------------------------------------------------------------------


def test_a_killed_command_ends_the_watcher_and_run(area: str, manifests: Manifests) -> None:
    with run(area, manifests.path, python(SLEEP)) as running:
        pid = int(running.line())
        watcher = running.watcher
        os.kill(pid, signal.SIGKILL)
        assert running.wait() == 128 + signal.SIGKILL
        assert not is_running(watcher)
    assert memory_of(area) == []


def test_killed_run_ends_command_and_watcher_and_frees_memory(area: str, manifests: Manifests) -> None:
    with run(area, manifests.path, python(SLEEP)) as running:
        pid = int(running.line())
        watcher = running.watcher
        running.send(signal.SIGKILL)
        until(lambda: not is_running(pid), "end of the command")
        until(lambda: not is_running(watcher), "end of the watcher")
    assert memory_of(area) == []


def test_watcher_whose_parent_was_killed_early_removes_the_memory(area: str, manifests: Manifests) -> None:
    lifeline = Lifeline()
    lifeline.release()
    somebody = os.getppid()
    arguments = ["watch", "--area", area, "--manifests", str(manifests.path), "--lifeline", str(lifeline.watched)]
    watcher = subprocess.run(
        [sys.executable, "-m", "shmroute", *arguments, "--keeper", str(somebody)],
        pass_fds=(lifeline.watched,),
        timeout=60,
        check=False,
    )
    lifeline.close_watched()
    assert watcher.returncode == 0
    assert memory_of(area) == []


def test_children_that_end_with_the_command_are_not_reported(area: str, manifests: Manifests) -> None:
    code = (
        "import os, sys, time\nread, write = os.pipe()\nif os.fork() == 0:"
        "\n    os.close(write)\n    os.read(read, 1)\n    time.sleep(0.05)"
    )
    with run(area, manifests.path, python(code)) as running:
        assert running.wait() == 0
    assert not any("left pid" in line for line in running.errors)


def test_processes_left_by_the_command_are_ended(area: str, manifests: Manifests) -> None:
    code = (
        "import subprocess, sys; sleeper = [sys.executable, '-c', 'import time; time.sleep(60)'];"
        " print(subprocess.Popen(sleeper, start_new_session=True).pid)"
    )
    with run(area, manifests.path, python(code)) as running:
        left = int(running.line())
        assert running.wait() == 0
        assert not is_running(left)
    assert any(f"left pid {left} running" in line for line in running.errors)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv")
def test_command_that_changed_its_user_ends_run_with_its_own_code(area: str, manifests: Manifests) -> None:
    code = """
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    os.setuid(65534)
    os.write(1, b"%d\\n" % os.getpid())  # in one piece, unlike print
    os.closerange(1, 3)
    time.sleep(60)
os.setuid(65534)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
os.write(1, b"ready\\n")
time.sleep(1)
sys.exit(7)
"""
    without_kill = ["setpriv", "--bounding-set=-kill", "--inh-caps=-kill"]  # as in a container that drops CAP_KILL
    with run(area, manifests.path, python(code), before=without_kill) as running:
        left = int(running.line(0) if running.line(0) != "ready" else running.line(1))
        running.line(1)
        running.send(signal.SIGHUP)
        running.send(signal.SIGTERM)
        assert running.wait() == 7
    os.kill(left, signal.SIGKILL)
    assert not any("Traceback" in line for line in running.errors)
    assert any("runs as another user" in line for line in running.errors)


def test_a_second_signal_kills_a_command_that_does_not_end(area: str, manifests: Manifests) -> None:
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    code = (
        f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {stubborn!r}], stdout=subprocess.PIPE);"
        " p.stdout.readline(); print(p.pid)"
    )
    with run(area, manifests.path, python(code)) as running:
        left = int(running.line())
        until(lambda: any("left pid" in line for line in running.errors), "the word of what is left")
        running.send(signal.SIGTERM)
        assert running.wait() == 0
        assert not is_running(left)


def test_as_process_1_run_reaps_orphans_of_the_command(area: str, manifests: Manifests) -> None:
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no pid namespaces for this user")
    code = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.05)
        os._exit(0)
    os.wait()
deadline = time.monotonic() + 20
def zombies():
    stats = (open(f"/proc/{pid}/stat").read() for pid in os.listdir("/proc") if pid.isdecimal())
    return [stat for stat in stats if stat.rpartition(")")[2].split()[:2] == ["Z", "1"]]
time.sleep(0.2)
while zombies() and time.monotonic() < deadline:
    time.sleep(0.01)
print(os.getppid(), len(zombies()))
raise SystemExit(7)
"""
    arguments = [sys.executable, "-m", "shmroute", "run", "--area", area, "--manifests", str(manifests.path), "--"]
    finished = subprocess.run(
        bound([*unshare, *arguments, *python(code)]), capture_output=True, text=True, timeout=60, check=False
    )
    assert finished.stdout == "1 0\n", finished.stderr
    assert finished.returncode == 7
    assert memory_of(area) == []


# --- two of them -------------------------------------------------------------------------------------------


def test_second_run_on_the_same_source_is_standby_and_takes_over(area: str, manifests: Manifests) -> None:
    with run(area, manifests.path, python(SLEEP)) as first:
        first.line()
        with run(area, manifests.path, python(RESOLVE_IN_A_LOOP)) as second, Reader(area) as reader:
            assert second.line(1) == "iiot"
            watcher, generation = first.watcher, reader.generation
            first.send(signal.SIGTERM)
            assert first.wait() == 128 + signal.SIGTERM
            assert until(lambda: writer(area) != watcher, "taking over")
            manifests.write("iiot2")
            assert second.line(2) == "iiot2"
            assert reader.generation > generation
            second.send(signal.SIGTERM)
            second.wait()
    assert memory_of(area) == []


def test_second_run_on_another_source_is_refused(
    area: str, manifests: Manifests, tmp_path: Path, make_area: Callable[[], str]
) -> None:
    other = Manifests(tmp_path / "other")
    with run(area, manifests.path, python(SLEEP)) as first:
        first.line()
        with run(area, other.path, python("print('started')")) as second:
            assert second.wait() == 2
        assert second.lines == []
        message = "".join(second.errors)
        assert str(manifests.path) in message
        assert str(other.path) in message
        with run(make_area(), other.path, python("print('started')")) as third:
            assert third.wait() == 0
        assert is_running(first.watcher)
        first.send(signal.SIGTERM)
        first.wait()
    assert children(os.getpid()) == set()
