"""The page of security names tests that exist."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = re.findall(r"`(tests/[a-z_/]+\.py)::(test_[a-z0-9_]+)`", PAGE)


def test_every_test_that_is_named_exists() -> None:
    assert len(NAMED) > 30
    missing = [f"{path}::{name}" for path, name in NAMED if f"\ndef {name}(" not in (ROOT / path).read_text()]
    assert missing == []


def test_every_attacker_but_the_same_user_has_tests() -> None:
    [table] = re.findall(r"(?:^\| attacker.*\n)(?:^\|.*\n)+", PAGE, re.MULTILINE)
    rows = [line.strip("|").split("|") for line in table.splitlines()[2:]]
    assert [cells[0].strip() for cells in rows if "::test_" not in cells[3]] == ["a process of the same user"]
