"""Row 32, with real servers: forks before and after the first look-up, with threads, with gevent."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.processes import bound
from tests.servers.serving import Load, serve
from tests.supervise.running import Manifests

APPLICATION = """
import json, os, threading, time
import shmroute

EARLY = shmroute.resolve("iiot_dataservice").app
problems = []

def look():
    while True:
        try:
            shmroute.resolve("iiot_dataservice")
        except Exception as error:
            problems.append(repr(error))
        time.sleep(0.001)

def application(environ, start_response):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(shmroute.resolve("iiot_dataservice").app)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ok = len(found) == 4 and set(found) <= {"iiot", "iiot2"} and EARLY == "iiot" and not problems
    start_response("200 OK" if ok else "500 No", [("Content-Type", "application/json")])
    return [json.dumps({"app": found[-1], "worker": os.getpid(), "problems": problems}).encode()]
"""
"""An application that looks up during its import, and in four threads of each request."""

LOOKING = APPLICATION + "\nthreading.Thread(target=look, daemon=True).start()\n"
"""The same, with a thread that looks up continuously, even while the server forks."""

GUNICORN = "gunicorn --workers 4 --bind 127.0.0.1:PORT app:application "
# With threads at work it needs its fork hooks: else it forks without Python's own lock, whatever they are doing.
UWSGI = "uwsgi --http-socket 127.0.0.1:PORT --wsgi-file app.py --master --processes 4 --die-on-term --enable-threads "

NO_HALF_FORK = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="Python 3.13 ends a child that PyOS_AfterFork_Child meets unprepared"
)
"""Skips a server that forks in C and tells Python only in the child, as uWSGI with `py-call-osafterfork`."""

FORK_IN_C = """
import ctypes, os, threading
from shmroute import resolve
from shmroute.worker import default as client
from shmroute.testing import routes

with routes({"iiot_dataservice": "iiot"}):
    resolve("iiot_dataservice")
    held, done = threading.Event(), threading.Event()

    def hold():
        with client._default._position.lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        app = client._default.app("iiot")
        os._exit(0 if app.app == "iiot" else 1)
    done.set()
    thread.join()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.fault(32)
@NO_HALF_FORK
def test_32_child_of_a_fork_in_c_during_a_look_up_can_look_up() -> None:
    finished = subprocess.run(
        bound([sys.executable, "-c", FORK_IN_C]), capture_output=True, text=True, timeout=60, check=False
    )
    assert (finished.stdout, finished.stderr) == ("0\n", "")


@pytest.mark.fault(32)
@pytest.mark.parametrize(
    ("command", "application"),
    [
        (GUNICORN + "--preload --worker-class gthread --threads 4 --max-requests 40", LOOKING),
        (GUNICORN + "--worker-class gevent", LOOKING),
        (UWSGI + "--py-call-uwsgi-fork-hooks --max-requests 40", LOOKING),
        pytest.param(UWSGI + "--py-call-osafterfork", APPLICATION, marks=NO_HALF_FORK),
        pytest.param(UWSGI + "--threads 4", APPLICATION, marks=pytest.mark.long),
        pytest.param(GUNICORN + "--preload --worker-class gevent", APPLICATION, marks=pytest.mark.long),
    ],
    ids=[
        "gunicorn-preload-gthread",
        "gunicorn-gevent",
        "uwsgi",
        "uwsgi-plain",
        "uwsgi-threads",
        "gunicorn-preload-gevent",
    ],
)
def test_32_look_ups_survive_forks_with_threads_and_gevent(
    tmp_path: Path, area: str, command: str, application: str
) -> None:
    manifests = Manifests(tmp_path / "manifests")
    port = free_port()
    (tmp_path / "app.py").write_text(application)
    words = ["shmroute", "run", "--", *command.replace("PORT", str(port)).split()]
    with serve(words, tmp_path, area, manifests, port=port) as server:
        server.workers("iiot")
        with Load(port) as load:
            load.goes_on("iiot")
            manifests.write("iiot2")
            load.goes_on("iiot2")
        assert not load.failures, load.failures[0]
        server.workers("iiot2")
        assert server.end(signal.SIGTERM) == 0
        assert "Traceback" not in server.log
        assert "Exception ignored" not in server.log
