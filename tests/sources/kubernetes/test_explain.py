"""Explanations of refusals, each in one line."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

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
