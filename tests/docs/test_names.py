"""Everything that README and docs/ name exists: links, commands, options, variables, metrics, Python names."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path

import click
import pytest

import shmroute
from shmroute import cli
from shmroute.contrib.prometheus import WorkerCollector
from tests.deploy.test_monitoring import names as metric_names
from tests.docs.pages import ROOT

GONE = "renamed.md"
"""The page that lists removed names."""
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != GONE)]
OF_OTHERS = {"--metrics", "--preload", "--workers", "--worker-class", "--lifespan"}
"""Options of other programs that the pages mention."""

pytestmark = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def command(name: str) -> click.Command:
    found: click.Command = importlib.import_module(f"shmroute.cli.{name}").command
    return found


def options(of: click.Command) -> set[str]:
    own = {text for each in of.params for text in (*each.opts, *each.secondary_opts)} | {"--help", "-h", "--version"}
    children = of.commands.values() if isinstance(of, click.Group) else ()
    return own.union(*(options(child) for child in children))


def variables() -> set[str]:
    """Return every environment variable that the code reads, for command-line options or by name."""
    given = {each.envvar for name in cli.COMMANDS for each in command(name).params}
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    return {name for name in given if isinstance(name, str)} | set(re.findall(r'"(SHMROUTE_[A-Z_]+)"', source))


def spoken(page: Path) -> list[str]:
    """Return the inline code of a page, and the lines of its shell blocks (continued ones joined)."""
    text = page.read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [*re.findall(r"`([^`]+)`", prose), *lines]


def test_links_lead_to_existing_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        assert re.match(r"https?:", target) or (page.parent / target).exists(), target


def test_documented_commands_have_the_shown_options(page: Path) -> None:
    for text in spoken(page):
        for name, rest in re.findall(r"(?:^|[|;&]\s*)shmroute ([a-z]+)\b([^|;&]*)", text):
            assert name in cli.COMMANDS, text
            shown = re.findall(r"(?<!\S)--?[a-z][a-z-]*", rest.split(" -- ")[0])
            assert set(shown) <= options(command(name)), text


def test_every_option_on_the_pages_belongs_to_a_command(page: Path) -> None:
    known = OF_OTHERS.union(*(options(command(name)) for name in cli.COMMANDS))
    for text in spoken(page):
        if option := re.match(r"--[a-z][a-z-]*", text):
            assert option[0] in known, text


def test_every_documented_variable_is_read_by_the_code(page: Path) -> None:
    known = variables() | {"SHMROUTE_TEST_KUBECONFIG", "SHMROUTE_NATIVE"}  # the latter: when the package is built
    assert set(re.findall(r"\bSHMROUTE_[A-Z_]*[A-Z]\b", page.read_text())) <= known


def test_every_metric_is_documented_and_exists(page: Path) -> None:
    text = page.read_text()
    exposed = {re.sub(r"_(?:sum|count)$", "", name) for name in metric_names()}
    if page.name == "metrics.md":
        named = {name.strip("`") for name in re.findall(r"`_?(?:shmroute_)?[a-z_]+`", text)}
        missing = {name for name in exposed if not any(name.endswith(text) for text in named if text)}
        assert not missing
    shown = {
        name for name in re.findall(r"`(shmroute_[a-z_]+)`", text) if name not in ("shmroute_routes", "shmroute_folder")
    }
    of_workers = {f"{metric.name}{'_total' * (metric.type == 'counter')}" for metric in WorkerCollector().describe()}
    assert shown <= exposed | of_workers
    assert page.name != "metrics.md" or of_workers <= shown


def test_documented_names_exist_in_the_library(page: Path) -> None:
    for module, imported in re.findall(r"^ *from (shmroute[\w.]*) import ([\w, ]+)$", page.read_text(), re.MULTILINE):
        for name in map(str.strip, imported.split(",")):
            found = hasattr(importlib.import_module(module), name) or importlib.util.find_spec(f"{module}.{name}")
            assert found, f"{module}.{name}"
    for name in re.findall(r"\bshmroute\.([A-Za-z]+)\(", page.read_text()):
        assert name in shmroute.__all__, name
