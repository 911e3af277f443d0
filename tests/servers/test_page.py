"""docs/servers.md shows the files of the examples unchanged; other tests run them."""

from __future__ import annotations

from tests.servers.page import ROOT, shown_files

LINES = 10
"""Maximum number of lines that a newcomer has to write for a server."""

APPLICATIONS = ("app.py", "tasks.py")

OF_OTHER_PAGES = ("demo", "flags", "gateway", "handlers", "tenants")
"""Examples that pages about other things than servers show."""


def test_every_block_of_the_page_is_a_file_of_the_examples() -> None:
    for shown in shown_files():
        assert shown.path.read_text() == shown.text, shown.path


def test_every_file_of_the_examples_is_on_the_page() -> None:
    shown = {file.path for file in shown_files()}
    files = {path for path in (ROOT / "examples").rglob("*.*") if path.suffix in (".py", ".ini")}
    assert {path for path in files if not {"__pycache__", *OF_OTHER_PAGES} & set(path.parts)} == shown


def test_configuration_of_each_server_has_at_most_ten_lines() -> None:
    for shown in shown_files():
        if shown.path.name not in APPLICATIONS:
            assert len(shown.text.splitlines()) <= LINES, shown.path
