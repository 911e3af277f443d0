"""A test that leaves something behind fails, and the next one starts clean."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.leftovers import MARK, SHARED_MEMORY, new_area, nothing_left, remove_area
from tests.processes import adopt_orphans, adopts_orphans, bound, children, command_line, is_running
from tests.supervise.running import until

pytest_plugins = ["pytester"]

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.leftovers.GRACE_SECONDS", 0.2)


def test_a_process_left_running_is_named_and_killed() -> None:
    with pytest.raises(AssertionError, match=r"left behind: process \d+ \(.*time.sleep\(600\)"), nothing_left():
        process = subprocess.Popen(SLEEP)
    assert process.wait(10) == -9


def test_an_orphan_is_found_by_its_mark() -> None:
    code = f"""
import subprocess
print(subprocess.Popen({SLEEP!r}, stdout=subprocess.DEVNULL, start_new_session=True).pid)
"""
    pids = []
    with pytest.raises(AssertionError, match=r"left behind: process"), nothing_left():
        pids.append(int(subprocess.check_output([sys.executable, "-c", code], timeout=240)))
    assert not is_running(pids[0])


def test_a_process_without_the_mark_is_found_as_a_child() -> None:
    with pytest.raises(AssertionError, match="left behind: process"), nothing_left():
        process = subprocess.Popen(SLEEP, env={})
    assert process.wait(10) == -9


def test_the_resource_tracker_of_multiprocessing_may_stay() -> None:
    with nothing_left():
        multiprocessing.get_context("spawn").Lock()


def test_a_process_that_is_ending_is_not_reported() -> None:
    with nothing_left():
        process = subprocess.Popen([sys.executable, "-I", "-S", "-c", "pass"])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tests.leftovers.GRACE_SECONDS", 30.0)
            process.wait(30)


def test_a_thread_left_running_is_named() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait, args=(60.0,), name="runs on")
    with pytest.raises(AssertionError, match="left behind: thread 'runs on'"), nothing_left():
        thread.start()
    end.set()
    thread.join()


def test_processes_from_before_are_left_alone() -> None:
    with subprocess.Popen(SLEEP) as process:
        with nothing_left():
            pass
        assert process.poll() is None
        process.kill()


@pytest.fixture
def leftover() -> Iterator[Path]:
    path = SHARED_MEMORY / f"shmroute-leftover-{os.getpid()}"
    yield path
    path.unlink(missing_ok=True)


def test_shared_memory_of_an_area_of_this_process_is_named() -> None:
    left = SHARED_MEMORY / f"shmroute-{new_area()}.7"
    with pytest.raises(AssertionError, match=f"left behind: {left}"), nothing_left():
        left.write_bytes(b"x")
    assert not left.exists()


def test_shared_memory_outside_the_tests_own_areas_is_named(leftover: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.leftovers._others_at_work", lambda: False)
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    with pytest.raises(AssertionError, match=f"left behind: {leftover}"), nothing_left():
        leftover.write_bytes(b"x")


def test_a_parallel_run_looks_for_stray_processes_at_its_end(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    name = f"shmroute-stray-{os.getpid()}"
    pytester.makeconftest(
        "import tests.leftovers\n"
        "tests.leftovers._others_at_work = lambda: False\n"
        "from tests.conftest import pytest_sessionfinish, pytest_sessionstart, pytest_terminal_summary\n"
    )
    pytester.makepyfile(f"def test(): open('/dev/shm/{name}', 'w').close()")
    try:
        result = pytester.runpytest_subprocess("-n", "2", "-p", "no:cacheprovider", timeout=240)
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.assert_outcomes(passed=1)
        result.stdout.fnmatch_lines([f"ERROR: left behind by the whole run: /dev/shm/{name}"])
    finally:
        (SHARED_MEMORY / name).unlink(missing_ok=True)


def test_shared_memory_is_not_blamed_while_other_runs_are_active(
    leftover: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    with subprocess.Popen([*SLEEP, "shmroute watch"]) as other:
        try:
            until(lambda: "shmroute watch" in command_line(other.pid), "the other's command line")
            with nothing_left():
                leftover.write_bytes(b"x")
        finally:
            other.kill()


@pytest.mark.parametrize("beside", [[], [*SLEEP, "shmroute watch"]], ids=["alone", "beside another"])
def test_this_run_and_its_parents_are_not_other_runs(beside: list[str]) -> None:
    code = (
        "import os, sys, tests.leftovers as leftovers, tests.processes as processes;"
        "family = {os.getpid(), *processes.ancestors(os.getpid())};"
        "print(leftovers._others_at_work(family | {*map(int, sys.argv[1:])}))"
    )
    with contextlib.ExitStack() as stack:
        others = []
        if beside:
            process = stack.enter_context(subprocess.Popen(beside))
            stack.callback(process.kill)
            until(lambda: "shmroute watch" in command_line(process.pid), "the other's command line")
            others.append(str(process.pid))
        # pytest itself is the shell's parent; the shell is called shmroute.
        started = ["shmroute", "-c", f"{sys.executable} -c '{code}' {' '.join(others)}; exit"]
        answer = subprocess.check_output(started, executable="/bin/sh", text=True, timeout=240)
    assert answer == f"{bool(beside)}\n"


def test_a_tests_area_is_removed_with_the_test(make_area: Callable[[], str]) -> None:
    area = make_area()
    paths = [SHARED_MEMORY / f"shmroute-{area}{rest}" for rest in ("", ".1", ".2.tmp")]
    neighbour = SHARED_MEMORY / f"shmroute-{area}0"
    for path in (*paths, neighbour):
        path.write_bytes(b"x")
    remove_area(area)
    assert not any(path.exists() for path in paths)
    assert neighbour.exists()
    neighbour.unlink()


def test_blocked_signals_are_reported_and_unblocked() -> None:
    with pytest.raises(AssertionError, match="left behind: SIGTERM blocked"), nothing_left():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_leftover_signal_handler_is_named_and_removed() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with pytest.raises(AssertionError, match="left behind: a handler of SIGUSR1"), nothing_left():
        signal.signal(signal.SIGUSR1, lambda *_: None)
    assert signal.getsignal(signal.SIGUSR1) == before


def test_adopting_orphans_is_reported_and_undone() -> None:
    with pytest.raises(AssertionError, match="left behind: the test run adopts orphans"), nothing_left():
        adopt_orphans(True)
    assert not adopts_orphans()


def test_a_changed_environment_is_reported_and_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHMROUTE_TEST_THERE", "before")
    with (
        pytest.raises(AssertionError, match=r"left behind: .*SHMROUTE_TEST_NEW; .*SHMROUTE_TEST_THERE"),
        nothing_left(),
    ):
        os.environ.update(SHMROUTE_TEST_NEW="new", SHMROUTE_TEST_THERE="after")
    assert "SHMROUTE_TEST_NEW" not in os.environ
    assert os.environ["SHMROUTE_TEST_THERE"] == "before"


def test_a_changed_current_folder_is_reported_and_restored(tmp_path: Path) -> None:
    before = Path.cwd()
    with pytest.raises(AssertionError, match=f"left behind: the current folder {tmp_path}"), nothing_left():
        os.chdir(tmp_path)
    assert Path.cwd() == before


def test_the_mark_of_processes_is_removed_with_the_test() -> None:
    before = os.environ.get(MARK)
    with nothing_left():
        assert os.environ[MARK] != before
    assert os.environ.get(MARK) == before


def test_a_bound_process_dies_with_the_one_that_started_it() -> None:
    code = f"import subprocess, time; print(subprocess.Popen({bound(SLEEP)!r}).pid, flush=True); time.sleep(600)"
    # The process id of the parent stands in the command: it has to be the one that starts it.
    code = code.replace(repr(str(os.getpid())), "str(__import__('os').getpid())")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert pid in children(parent.pid)
        parent.kill()
    deadline = time.monotonic() + 20
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_bound_program_is_that_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert str(Path(sys.executable).parent / "pytest") in bound(["pytest"])
    assert bound(["sh"])[-1] in ("/usr/bin/sh", "/bin/sh")


def test_a_bound_program_that_does_not_exist_is_an_error_at_once() -> None:
    with pytest.raises(FileNotFoundError, match="no program"):
        bound([Path("/nonexistent/program")])
