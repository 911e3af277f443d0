"""Label selectors in the API's own syntax."""

from __future__ import annotations

import pytest

from shmroute.errors import ConfigError
from shmroute.sources.folder.selector import parse_selector


@pytest.mark.parametrize(
    ("selector", "selected", "not_selected"),
    [
        ("", [{}, {"a": "b"}], []),
        ("iidp=iidp", [{"iidp": "iidp", "x": "y"}], [{}, {"iidp": "no"}]),
        ("iidp==iidp", [{"iidp": "iidp"}], [{"iidp": ""}]),
        ("iidp=", [{"iidp": ""}], [{}, {"iidp": "iidp"}]),
        ("iidp!=iidp", [{}, {"iidp": "no"}], [{"iidp": "iidp"}]),
        ("stage in (test, prod)", [{"stage": "test"}, {"stage": "prod"}], [{}, {"stage": "dev"}]),
        ("stage notin (test,prod)", [{}, {"stage": "dev"}], [{"stage": "test"}]),
        ("iidp", [{"iidp": ""}], [{}]),
        ("!iidp", [{}], [{"iidp": ""}]),
        ("a=1 , b in (2,3),!c", [{"a": "1", "b": "3"}], [{"a": "1", "b": "4"}, {"a": "1", "b": "2", "c": ""}]),
        ("app.kubernetes.io/name=x", [{"app.kubernetes.io/name": "x"}], [{}]),
    ],
)
def test_a_selector_selects_the_same_as_the_api(
    selector: str, selected: list[dict[str, str]], not_selected: list[dict[str, str]]
) -> None:
    select = parse_selector(selector)
    assert all(select(labels) for labels in selected)
    assert not any(select(labels) for labels in not_selected)


@pytest.mark.parametrize("selector", ["=x", "a=b=c", "a in b", "a in (b", "a,,b", "a > 3", "a b"])
def test_an_invalid_selector_text_is_refused(selector: str) -> None:
    with pytest.raises(ConfigError, match="label selector"):
        parse_selector(selector)
