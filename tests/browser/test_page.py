"""The status page in a real browser: Chromium, driven by Playwright; skipped where either is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.watcher.test_status_page import SCRIPT, page_of

sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SERIOUS = ("serious", "critical")

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on PATH"),
]


@pytest.fixture
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_page_is_accessible_and_asks_no_other_host(browser: Any, area: str, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-core is not installed")
    with page_of(area) as port:
        # axe-core is added to the page by the test, which the page's own policy forbids.
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, bypass_csp=True)
        page = context.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"http://127.0.0.1:{port}/?search=o")
        found = axe.Axe().run(page).response["violations"]
        assert [each["id"] for each in found if each["impact"] in SERIOUS] == []
        assert all(url.startswith((f"http://127.0.0.1:{port}/", "data:")) for url in asked), asked
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "no sideways scrolling"
        context.close()


def test_script_in_a_models_name_does_not_run_and_the_page_refreshes(browser: Any, area: str) -> None:
    with page_of(area) as port:
        page = browser.new_page()
        errors: list[str] = []
        page.on("dialog", lambda dialog: errors.append(dialog.message))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"http://127.0.0.1:{port}/?search=script")
        assert SCRIPT in page.locator("#found").inner_text()
        before = page.locator("#facts").inner_text()
        page.wait_for_function("before => document.querySelector('#facts').innerText !== before", arg=before)
        page.get_by_role("link", name=SCRIPT).click()
        assert "app two v1" in page.locator("#found").inner_text()
        assert errors == []


def test_page_works_without_scripts_and_by_keyboard(browser: Any, area: str) -> None:
    with page_of(area) as port:
        context = browser.new_context(java_script_enabled=False)
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        assert "serving" in page.locator("#state").inner_text()
        page.get_by_label("Part of a model's name").focus()
        page.keyboard.type("one")
        page.keyboard.press("Enter")
        page.get_by_role("link", name="one", exact=True).click()
        assert "app one v1" in page.locator("#found").inner_text()
        context.close()
