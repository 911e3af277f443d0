"""Explanations of refusals, each in one line."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from shmroute.errors import ApiError
from shmroute.resources.registry import APPMODELS
from shmroute.sources.kubernetes.explain import explain

API: Any = SimpleNamespace(kind=APPMODELS, namespace=None)
LONG = "x" * 1_000_000


@pytest.mark.parametrize("status", [0, 401, 403, 404, 410, 500])
def test_long_server_texts_are_cut(status: int) -> None:
    for reason, message in ((LONG, ""), ("", LONG), (LONG, LONG)):
        said = explain(ApiError("list", status, reason, message), "list", API)
        assert "x" * 100 in said
        assert len(said) < 1_500


@pytest.mark.parametrize(
    ("namespaced", "namespace", "where"),
    [(True, "team", "in namespace 'team'"), (True, None, "in all namespaces"), (False, None, "at the cluster scope")],
)
def test_a_missing_right_names_where_it_is_missing(namespaced: bool, namespace: str | None, where: str) -> None:
    kind = msgspec.structs.replace(APPMODELS, namespaced=namespaced)
    api: Any = SimpleNamespace(kind=kind, namespace=namespace)
    assert f"not allowed to list appmodels.iidp.com {where}: " in explain(ApiError("list", 403, "", ""), "list", api)


@pytest.mark.parametrize(
    "words",
    ["field label not supported: spec.x", '"spec.x" is not a known field selector: only "metadata.name"'],
)
def test_a_field_that_cannot_be_selected_is_explained(words: str) -> None:
    api: Any = SimpleNamespace(kind=msgspec.structs.replace(APPMODELS, field_selector="spec.x=1"), namespace=None)
    said = explain(ApiError("list", 400, "BadRequest", words), "list", api)
    assert f"by fieldSelector 'spec.x=1': {words}: select by metadata.name" in said
