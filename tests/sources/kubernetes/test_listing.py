"""Choice between streaming and paged lists, depending on earlier answers."""

from __future__ import annotations

import msgspec
import pytest

from shmroute.kube.connection import Connection
from tests.apiserver import ApiServer, app_model
from tests.sources.kubernetes.following import CALM, Following


def streaming_lists(api: ApiServer) -> int:
    return sum("sendInitialEvents" in request.query for request in api.requests)


@pytest.mark.parametrize("code", [400, 422, 501])
def test_a_server_without_streaming_lists_is_asked_for_one_once(
    api: ApiServer, connection: Connection, code: int
) -> None:
    api.faults.fail(code, times=1, verb="watch")
    api.apply(app_model("one"))
    with Following(connection) as follow:
        follow.wait_for(api)
        for lists in (2, 3, 4):
            api.faults.gone(times=1)
            api.faults.end_streams()
            follow.wait_replaced(lists)

        assert streaming_lists(api) == 1
        assert follow.source.stats.restarts.get(f"http-{code}") is None


@pytest.mark.parametrize("code", [429, 503])
def test_a_busy_server_is_asked_for_a_streaming_list_again(api: ApiServer, connection: Connection, code: int) -> None:
    api.faults.fail(code, times=3, verb="watch")
    with Following(connection) as follow:
        follow.wait_watched(api)

        assert streaming_lists(api) == 4
        assert api.requests.count("list") == 0


@pytest.mark.fault(11)
def test_streaming_lists_without_a_bookmark_fall_back_to_pages(api: ApiServer, connection: Connection) -> None:
    api.apply(app_model("one"))
    impatient = msgspec.structs.replace(CALM, list_silence_seconds=0.5)
    with api.faults.silence(), Following(connection, timing=impatient) as follow:
        follow.wait_for(api)

        assert streaming_lists(api) == 2
        assert api.requests.count("list") == 1


def test_a_list_after_a_suspicion_is_not_a_streaming_list(api: ApiServer, connection: Connection) -> None:
    with Following(connection) as follow:
        follow.wait_watched(api)
        follow.source.relist("doubt")
        follow.wait_replaced(2)

        assert streaming_lists(api) == 1
        [listed] = api.requests.select("list")
        assert "resourceVersion" not in listed.query
