"""The generator of test data agrees with the real parsers and the real index."""

from __future__ import annotations

from itertools import islice

from shmroute.resources.appmodel import parse_appmodel
from shmroute.resources.endpointslice import parse_endpointslice
from shmroute.sources.base import Replaced
from shmroute.tables import Index
from tests.generate import appmodels, body, endpointslices, manifest, rows


def test_the_same_seed_gives_the_same_data_and_another_seed_other_data() -> None:
    assert list(appmodels(20, 5, seed=1)) == list(appmodels(20, 5, seed=1))
    assert list(appmodels(20, 5, seed=1)) != list(appmodels(20, 5, seed=2))
    assert list(endpointslices(20, 5, seed=1)) == list(endpointslices(20, 5, seed=1))


def test_every_object_is_decoded_as_it_was_encoded() -> None:
    for stored in (True, False):
        for item in appmodels(20, 5, stored=stored):
            assert parse_appmodel(body(item)) == item
    for piece in endpointslices(20, 5, per_slice=2):
        assert parse_endpointslice(body(piece)) == piece


def test_names_do_not_depend_on_how_many_models_an_app_has() -> None:
    assert [item.key for item in appmodels(50, 0)] == [item.key for item in appmodels(50, 10)]


def test_models_and_apps_are_unique() -> None:
    items = list(appmodels(500, 10))
    assert len({item.app for item in items}) == len({item.key for item in items}) == 500
    assert len({model.name for item in items for model in item.models}) == 5_000


def test_addresses_are_unique() -> None:
    addresses = [each.address for piece in endpointslices(50, 30, per_slice=7) for each in piece.endpoints]
    assert len(addresses) == len(set(addresses)) == 50 * 30


def test_models_are_generated_lazily() -> None:
    assert len(list(islice(appmodels(100_000, 10), 3))) == 3
    assert len(list(islice(rows(100_000, 10), 3))) == 3


def test_manifests_have_no_fields_set_by_the_server() -> None:
    (item,) = appmodels(1, 2, stored=False)
    assert set(manifest(item)["metadata"]) == {"name", "namespace", "labels"}


def test_rows_equal_those_of_the_index_for_the_same_objects() -> None:
    index = Index()
    index.apply(Replaced("appmodels", tuple(appmodels(30, 4))))
    assert dict(rows(30, 4)) == dict(index.rows())
    index.apply(Replaced("endpointslices", tuple(endpointslices(30, 12, per_slice=12))))
    assert dict(rows(30, 4, endpoints=12)) == dict(index.rows())
