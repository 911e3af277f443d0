"""Names of areas and of their files."""

from __future__ import annotations

import pytest

from shmroute.errors import ConfigError
from shmroute.shm.names import control_name, segment_names
from shmroute.shm.writing.publisher import Publisher
from tests.shm.tables import current_segment


@pytest.mark.parametrize("area", ["", "-a", "_a", "a.b", "a/b", "../a", "a b", "ä", "x" * 101, "a\n"])
def test_an_area_name_with_unsafe_characters_is_refused(area: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a name"):
        control_name(area)


@pytest.mark.parametrize("area", ["a", "A-1_b", "0", "x" * 100])
def test_area_names_have_letters_digits_dashes_and_underscores(area: str) -> None:
    assert control_name(area) == f"shmroute-{area}"


def test_areas_with_a_common_name_prefix_share_no_file(area: str) -> None:
    with Publisher(area) as one, Publisher(f"{area}-b") as other:
        one.publish({(1, "a"): b"1"})
        other.publish({(1, "a"): b"1"})
        assert segment_names(area) == [current_segment(area)]
        other.close(remove=True)
