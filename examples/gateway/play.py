"""The gateway under load while its pods are killed, hang, answer 503, restart, move, stop and return.

    python examples/gateway/play.py [--rate 200] [--seconds 3] [--deadline 3]

Starts a watcher on a folder, five pods on loopback addresses and the gateway, all as processes of their own, and calls
the gateway at an even rate. Every second call carries an Idempotency-Key. Prints a line for each act, and ends with 1
if a promise is broken.
"""

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp
import httpx

HERE = Path(__file__).parent
PORT = 8060
START_SECONDS = 60.0

APPMODEL = """
apiVersion: iidp.com/v1
kind: AppModel
metadata: {{name: {app}}}
spec: {{app: {app}, version: v1, models: {models}}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {app}-1, labels: {{kubernetes.io/service-name: {app}}}}}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints: [{endpoints}]
"""


class Pod:
    """One pod: a uvicorn process at a loopback address."""

    def __init__(self, number):
        self.host = f"127.0.{os.getpid() % 250 + 1}.{number}"
        self.process = None

    def start(self):
        command = [sys.executable, "-m", "uvicorn", "--app-dir", str(HERE), "--host", self.host, "--port", str(PORT)]
        environment = {**os.environ, "POD_NAME": self.host}
        self.process = subprocess.Popen([*command, "--log-level", "critical", "pod:app"], env=environment)

    def end(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait()

    def behave(self, behaviour):
        httpx.put(f"http://{self.host}:{PORT}/behave", content=behaviour).raise_for_status()

    def wait(self):
        until = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection((self.host, PORT), 1):
                return
            if time.monotonic() > until:
                raise SystemExit(f"pod {self.host} did not start")
            time.sleep(0.05)


class Load:
    """Calls of the gateway at an even rate, and their results."""

    def __init__(self, url, rate):
        self.url, self.rate = url, rate
        self.counts = Counter()
        self.said = {}
        self.under_way = set()

    async def run(self):
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            number, began = 0, time.monotonic()
            while True:
                task = asyncio.create_task(self.call(session, number % 2 == 0))
                self.under_way.add(task)
                task.add_done_callback(self.under_way.discard)
                number += 1
                await asyncio.sleep(max(0.0, began + number / self.rate - time.monotonic()))

    async def call(self, session, repeatable):
        headers = {"Idempotency-Key": "k"} if repeatable else {}
        async with session.post(self.url, data=b"{}", headers=headers) as answer:
            said = await answer.text()
        kind = "repeatable" if repeatable else "other"
        self.counts[kind, answer.status] += 1
        self.counts["repeated"] += answer.headers.get("X-Attempts", "1") != "1"
        if answer.status != 200:
            self.said[kind, answer.status] = said


class Play:
    """The faults that are played, one after another."""

    def __init__(self, folder, load, pods, seconds):
        self.folder, self.load, self.pods, self.seconds = folder, load, pods, seconds
        self.broken = []

    def serve(self, app, pods, other):
        """Make `app` serve the model at these pods, and `other` no longer serve it."""
        for name, models, given in ((app, "[{name: m, version: '1'}]", pods), (other, "[]", [])):
            endpoints = ", ".join(f"{{addresses: [{pod.host}], conditions: {{ready: true}}}}" for pod in given)
            text = APPMODEL.format(app=name, models=models, port=PORT, endpoints=endpoints)
            if models == "[]":
                (self.folder / f"{name}.yaml").unlink(missing_ok=True)
                continue
            temporary = self.folder / f".{name}.new"
            temporary.write_text(text)
            temporary.replace(self.folder / f"{name}.yaml")

    async def act(self, what, *, lost=(), seconds=None):
        """Let the load run, and print the results of the calls. `lost`: statuses that calls without a key may have."""
        self.load.counts.clear()
        self.load.said.clear()
        await asyncio.sleep(self.seconds if seconds is None else seconds)
        if self.load.under_way:  # they belong to this act, also those that wait for a deadline
            await asyncio.wait(list(self.load.under_way))
        counts = self.load.counts
        bad = {key: count for key, count in counts.items() if key != "repeated" and key[1] != 200}
        wrong = {key: count for key, count in bad.items() if key[0] == "repeatable" or key[1] not in lost}
        answered = sum(count for key, count in counts.items() if key != "repeated") - sum(bad.values())
        failed = ", ".join(f"{count} {kind} x {status}" for (kind, status), count in sorted(bad.items())) or "none"
        print(f"{what:46} answered {answered:5}  repeated {counts['repeated']:3}  failed: {failed}", flush=True)
        if wrong:
            self.broken.append(what)
            for key in sorted(wrong):
                print(f"  the last {key[0]} x {key[1]} said: {self.load.said[key]}", flush=True)

    async def run(self):
        print(
            "repeatable: calls with an Idempotency-Key; other: calls without one; x 503: the status they got",
            flush=True,
        )
        a, b, c, d, e = self.pods
        three = [a, b, c]
        await self.act("three pods")
        if self.broken:
            raise SystemExit("the first act failed undisturbed: this machine cannot keep up, give a lower --rate")
        a.end(signal.SIGKILL)
        await self.act("one is killed without notice", lost=(502,))
        a.start()
        await asyncio.to_thread(a.wait)
        await self.act("it is back", seconds=max(self.seconds, 3))
        await asyncio.to_thread(b.behave, "hang")
        await self.act("one hangs", lost=(504,), seconds=max(self.seconds, 4))
        await asyncio.to_thread(b.behave, "ok")
        await asyncio.to_thread(c.behave, "503")
        await self.act("one answers 503", lost=(503,))
        await asyncio.to_thread(c.behave, "ok")
        await self.act("all are well")
        for pod in three:
            self.serve("one", [each for each in three if each is not pod], "two")
            await asyncio.sleep(1.0)  # a preStop hook waits so that all have heard of it
            await asyncio.to_thread(pod.end)
            pod.start()
            await asyncio.to_thread(pod.wait)
            self.serve("one", three, "two")
            await self.act("rolling restart, readiness first", seconds=1.0)
        self.serve("two", [d, e], "one")
        await self.act("the model moves to another app")
        self.serve("two", [], "one")
        await asyncio.sleep(1.0)
        self.load.counts.clear()
        await asyncio.sleep(1.0)
        statuses = {key[1] for key in self.load.counts if key != "repeated"}
        print(f"{'scaled to zero':46} the gateway says {sorted(statuses)}", flush=True)
        if statuses != {503}:
            self.broken.append("scaled to zero")
        self.serve("two", [d], "one")
        await asyncio.sleep(1.0)
        await self.act("and back")


async def main(rate, seconds, deadline):
    pods = [Pod(number) for number in range(1, 6)]
    port = free_port()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        environment = {**os.environ, "SHMROUTE_AREA": f"gateway-{os.getpid()}", "DEADLINE_SECONDS": str(deadline)}
        for pod in pods:
            pod.start()
            stack.callback(lambda pod=pod: (pod.process.kill(), pod.process.wait()))
        play = Play(folder, Load(f"http://127.0.0.1:{port}/call/m", rate), pods, seconds)
        play.serve("one", pods[:3], "two")
        server = ["uvicorn", "--app-dir", str(HERE), "--port", str(port), "--log-level", "critical", "app:app"]
        watcher = ["shmroute", "run", "--manifests", name, "--log-level", "error", "--"]
        gateway = subprocess.Popen([sys.executable, "-m", *watcher, sys.executable, "-m", *server], env=environment)
        stack.callback(lambda: (gateway.terminate(), gateway.wait()))
        for pod in pods:
            pod.wait()
        await asyncio.to_thread(wait_for, f"http://127.0.0.1:{port}/call/m")
        running = asyncio.create_task(play.load.run())
        try:
            await play.run()
        finally:
            running.cancel()
            await asyncio.gather(running, *play.load.under_way, return_exceptions=True)
    print("broken promises: " + (", ".join(play.broken) or "none"))
    return 1 if play.broken else 0


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def wait_for(url):
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        with contextlib.suppress(httpx.TransportError):
            if httpx.post(url, content=b"{}").status_code == 200:
                return
        time.sleep(0.1)
    raise SystemExit("the gateway did not start")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=200.0, help="calls a second")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of an act")
    parser.add_argument("--deadline", type=float, default=3.0, help="seconds the gateway gives a call")
    options = parser.parse_args()
    sys.exit(asyncio.run(main(options.rate, options.seconds, options.deadline)))
