"""Take the documentation's screenshots of the status page: `make screenshots`. Needs Chromium and Playwright."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from shmroute.worker.reader import Reader

IMAGES = Path(__file__).parent / "images"
MANIFESTS = """
apiVersion: iidp.com/v1
kind: AppModel
metadata: {name: newsdkapp, namespace: prod}
spec: {app: newSdkApp, version: v1, models: [{name: iiot_dataservice, version: v-1}, {name: iiot_alarms, version: v-2}]}
---
apiVersion: iidp.com/v1
kind: AppModel
metadata: {name: youngapp, namespace: prod}
spec: {app: youngApp, version: v3, models: [{name: iiot_dataservice, version: v-1}]}
---
apiVersion: iidp.com/v1
kind: AppModel
metadata: {name: unfinished, namespace: prod}
spec: {app: unfinishedApp, version: v1}
"""


def main() -> None:
    """Start a watcher on a small folder and photograph its page, light and dark, wide and narrow."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        manifests = Path(folder, "manifests")
        manifests.mkdir()
        (manifests / "appmodels.yaml").write_text(MANIFESTS)
        area = f"screenshots-{port}"
        command = [sys.executable, "-m", "shmroute", "run", "--area", area, "--manifests", "manifests"]
        command += ["--listen", f"127.0.0.1:{port}", "--", "sleep", "60"]
        with subprocess.Popen(command, cwd=folder) as watcher, sync_playwright() as playwright, Reader(area) as reader:
            reader.wait_ready(30)
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
            for scheme in ("light", "dark"):
                for width in (1280, 390):
                    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
                    page.goto(f"http://127.0.0.1:{port}/?search=iiot")
                    page.wait_for_timeout(5_000)
                    page.screenshot(path=IMAGES / f"status-{scheme}-{width}.png", full_page=True)
            browser.close()
            watcher.terminate()


if __name__ == "__main__":
    main()
