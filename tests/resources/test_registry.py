"""The registry is the only place that names the watched kinds."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import shmroute
from shmroute.resources.registry import APPMODELS, BUILT_IN, ENDPOINTSLICES, WatchedKind

ROOT = Path(shmroute.__file__).parent
NAMES = {text for kind in BUILT_IN for text in (kind.name, kind.plural, kind.kind)}


def names_kind(module: Path) -> list[int]:
    """Return the lines with a string that equals the name of a kind."""
    if module == ROOT / "watcher" / "__init__.py":
        return []  # it exports the class of that name
    nodes = ast.walk(ast.parse(module.read_text()))
    return [node.lineno for node in nodes if isinstance(node, ast.Constant) and node.value in NAMES]


def test_kinds_are_named_in_resources_only() -> None:
    found = {
        str(module.relative_to(ROOT)): lines
        for module in ROOT.rglob("*.py")
        if module.relative_to(ROOT).parts[0] != "resources" and (lines := names_kind(module))
    }
    assert not found


@pytest.mark.parametrize("kind", BUILT_IN, ids=lambda kind: kind.name)
def test_names_of_kinds_are_unique(kind: WatchedKind) -> None:
    assert [other for other in BUILT_IN if other.name == kind.name or other.feeds == kind.feeds] == [kind]


def test_paths_and_names_match_the_api() -> None:
    assert APPMODELS.full_name == "appmodels.iidp.com"
    assert APPMODELS.api_path == ("apis", "iidp.com", "v1")
    assert ENDPOINTSLICES.api_version == "discovery.k8s.io/v1"
    core = WatchedKind(
        name="nodes",
        group="",
        version="v1",
        plural="nodes",
        kind="Node",
        namespaced=False,
        parse=APPMODELS.parse,
        feeds=9,
    )
    assert (core.full_name, core.api_version, core.api_path) == ("nodes", "v1", ("api", "v1"))
    assert (core.default_namespace, APPMODELS.default_namespace) == ("", "default")
