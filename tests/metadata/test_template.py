from __future__ import annotations

import pytest

from shmroute.errors import ConfigError
from shmroute.metadata.template import DEFAULT_TEMPLATE, KeyTemplate


def test_the_default_key_is_app_and_model() -> None:
    assert DEFAULT_TEMPLATE == "{app}_{model}"
    assert KeyTemplate().key("meta-test", "newSdkApp", "iiot_dataservice", "v-1") == "newSdkApp_iiot_dataservice"


def test_all_four_names_and_literal_braces_may_be_used() -> None:
    template = KeyTemplate("{{{namespace}}}:{app}:{model}@{version}")
    assert template.key("n", "a", "m", "v") == "{n}:a:m@v"


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{app}", "lacks {model}"),
        ("", "lacks {model}"),
        ("{model}_{pod}", "write only {namespace}, {app}, {model}, {version}"),
        ("{model:>10}", "write only"),
        ("{model!r}", "write only"),
        ("{model.__class__}", "write only"),
        ("{}_{model}", "write only"),
        ("{model", "expected '}'"),
        ("{model}}", "Single '}'"),
    ],
)
def test_an_unusable_template_is_refused_with_the_reason(template: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        KeyTemplate(template)
    assert complaint in str(caught.value)


def test_names_with_braces_are_used_literally() -> None:
    assert KeyTemplate().key("n", "{model}", "{0}", "v") == "{model}_{0}"
