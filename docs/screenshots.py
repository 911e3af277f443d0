"""Take the documentation's pictures of the status page and of the terminal: `make screenshots`.

Playwright photographs the pages in Chromium, and rich draws what a terminal of 80 columns shows. Both are of one real
watcher with three workers.
"""

from __future__ import annotations

import io
import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from shmroute.worker.reader import Reader

IMAGES = Path(__file__).parent / "images"
AREA = f"pictures-{os.getpid()}"
APPMODELS = """
apiVersion: iidp.com/v1
kind: AppModel
metadata: {name: newsdkapp, namespace: prod}
spec: {app: newSdkApp, version: v1, models: [{name: iiot_dataservice, version: %s}, {name: iiot_alarms, version: v-2}]}
---
apiVersion: iidp.com/v1
kind: AppModel
metadata: {name: youngapp, namespace: prod}
spec: {app: youngApp, version: v3, models: [{name: iiot_dataservice, version: v-1}]}
"""
OTHERS = """
apiVersion: iidp.com/v1
kind: AppModel
metadata: {name: unfinished, namespace: prod}
spec: {app: unfinishedApp, version: v1}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: acme, namespace: prod}
data: {quota: "40", region: eu}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: globex, namespace: prod}
data: {quota: "9", region: us}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: newsdkapp-1, namespace: prod, labels: {kubernetes.io/service-name: newsdkapp}}
addressType: IPv4
endpoints: [{addresses: [10.1.2.3]}, {addresses: [10.1.2.4]}, {addresses: [10.1.2.5], conditions: {ready: false}}]
ports: [{name: http, port: 8060}]
"""
WORKER = "import time, shmroute; shmroute.resolve('iiot_dataservice'); time.sleep(600)"

LIGHT = TerminalTheme(
    (255, 255, 255),
    (26, 29, 33),
    [
        (26, 29, 33),
        (179, 38, 30),
        (26, 110, 51),
        (133, 83, 0),
        (11, 87, 164),
        (125, 40, 140),
        (0, 105, 110),
        (85, 91, 99),
    ],
)
DARK = TerminalTheme(
    (20, 23, 26),
    (232, 234, 237),
    [
        (20, 23, 26),
        (255, 138, 128),
        (111, 213, 139),
        (242, 184, 75),
        (138, 184, 240),
        (215, 150, 230),
        (110, 210, 215),
        (168, 174, 182),
    ],
)
FORMAT = re.sub(r"\s*@font-face \{\{.*?\n    \}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
"""rich's own, without the fonts that it loads from another host."""

COLOURS = 32
"""Of a photograph: a fifth of the bytes, and nobody sees a difference."""

HOME = "\x1b[H"
"""What a live view writes to begin again."""

ERASE = re.compile(r"\x1b\[[JK]")
"""What it writes to erase the rest of a line, or of the terminal."""


def main() -> None:
    """Start the watcher and its workers, and take every picture."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(SHMROUTE_AREA=AREA, COLUMNS="80", LINES="40")
    with tempfile.TemporaryDirectory() as folder, scene(folder, port):
        terminals()
        pages(port)


@contextmanager
def scene(folder: str, port: int) -> Iterator[None]:
    """A watcher on a folder, and three workers."""
    os.chdir(folder)
    Path("manifests").mkdir()
    Path("manifests/others.yaml").write_text(OTHERS)
    serve("v-0")
    Path("metadata").mkdir()
    Path("metadata/newSdkApp_iiot_dataservice").write_text('{"unit": "celsius"}')
    Path("tables.yaml").write_text("tables: {tenants: {resource: configmaps.v1, value: .data}}")
    watch = [sys.executable, "-m", "shmroute", "watch", "--manifests", "manifests", "--metadata", "metadata"]
    watch += ["--tables", "tables.yaml", "--listen", f"127.0.0.1:{port}", "--log-level", "error"]
    with ExitStack() as stack, Reader() as reader:
        stack.callback(subprocess.run, [sys.executable, "-m", "shmroute", "area", "rm", AREA], check=False)
        for number in range(4):
            process = stack.enter_context(subprocess.Popen(watch if not number else [sys.executable, "-c", WORKER]))
            stack.callback(process.terminate)
            reader.wait_ready(30)
        for version in ("v-0a", "v-0b", "v-1"):
            time.sleep(8)
            serve(version)
        time.sleep(3)
        yield


def serve(version: str) -> None:
    """Write the AppModels anew with that version of a model."""
    Path("manifests/new").write_text(APPMODELS % version)
    Path("manifests/new").replace("manifests/appmodels.yaml")


def pages(port: int) -> None:
    """The status page: light and dark, wide and narrow."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for scheme in ("light", "dark"):
            for width in (1280, 390):
                page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
                page.goto(f"http://127.0.0.1:{port}/?model=iiot_dataservice")
                page.wait_for_timeout(3_000)
                picture = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB")
                picture.quantize(COLOURS).save(IMAGES / f"status-{scheme}-{width}.png", optimize=True)
        browser.close()


def terminals() -> None:
    """The views of the terminal."""
    draw("status", shown("status"))
    draw("explain", shown("explain", "iiot_dataservice") + shown("explain", "iiot_dataservise"))
    draw("conflicts", shown("get", "conflicts") + shown("get", "invalid"))
    draw("events", shown("events", "--since", "10m"))
    draw("doctor", shown("doctor", "--manifests", "manifests"))
    draw("get-w", shown("get", "models", "-w", during=lambda: serve("v-2")))
    live = ERASE.sub("", shown("status", "--watch", during=lambda: serve("v-1")).split(HOME)[-2])
    draw("status-watch", f"\x1b[1m$ shmroute status --watch\x1b[0m\n{live}")


def shown(*arguments: str, during: object = None) -> str:
    """What a terminal of 80 columns shows of a command; one that follows is interrupted a little after `during`."""
    master, slave = pty.openpty()
    with subprocess.Popen([sys.executable, "-m", "shmroute", *arguments], stdout=slave, stderr=slave) as process:
        os.close(slave)
        text = b""
        until = time.monotonic() + 3
        while time.monotonic() < until or during is None:
            if select.select([master], [], [], 0.1)[0]:
                try:
                    text += os.read(master, 65_536)
                except OSError:  # the command has ended
                    break
            elif callable(during) and time.monotonic() > until - 1.5:
                during()
                until, during = time.monotonic() + 3, False
        process.send_signal(signal.SIGKILL)
    os.close(master)
    return f"\x1b[1m$ shmroute {' '.join(arguments)}\x1b[0m\n{text.decode()}"


def draw(name: str, text: str) -> None:
    """Write the text as an SVG that follows the reader's colour scheme."""
    console = Console(record=True, width=80, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(Text.from_ansi(text.replace("\r\n", "\n")))
    light, dark = (
        console.export_svg(title="shmroute", theme=theme, clear=False, code_format=FORMAT, unique_id=name)
        for theme in (LIGHT, DARK)
    )
    styles = re.findall(rf"^ *(\.{name}-r\d+ \{{.*)", dark, re.MULTILINE)
    styles += [".back { fill: #14171a }", f".{name}-title {{ fill: #e8eaed }}"]
    light = light.replace(f'fill="{LIGHT.background_color.hex}"', 'class="back"')
    light = light.replace("rgba(255,255,255,0.35)", "#8a9097")
    title = f'class="{name}-title"'
    light = light.replace(f'fill="{LIGHT.foreground_color.hex}" {title}', title)
    style = f".back {{ fill: #ffffff }} .{name}-title {{ fill: #1a1d21 }}"
    style += f"\n    @media (prefers-color-scheme: dark) {{ {' '.join(styles)} }}\n    </style>"
    (IMAGES / f"terminal-{name}.svg").write_text(
        re.sub(r" +$", "", light.replace("</style>", style, 1), flags=re.MULTILINE)
    )


if __name__ == "__main__":
    main()
