"""Rows 21 and 28: a storm of changes while the metadata store hangs, and a table that grows tenfold."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from shmroute import Reader
from shmroute.sources.base import Changed, Replaced
from tests.apiserver import ApiServer, app_model
from tests.faults.watching import watch_process
from tests.redis_server import RedisServer
from tests.watcher.running import WAIT_SECONDS, appmodel, reading, running, wait_for

STORM_APPS = 100
STORM_CHANGES = 3_000

STORM_BYTES = 64 << 20
"""Bytes by which a watcher of 100 AppModels may not grow, in a storm of any length."""

LOOK_SECONDS = 0.005
"""Seconds between two rounds of look-ups, which leave CPU time for the growing table."""


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


@pytest.mark.fault(21)
def test_21_storm_of_changes_with_a_hung_redis_delays_no_route(
    api: ApiServer, redis_server: RedisServer, area: str, tmp_path: Path
) -> None:
    for number in range(STORM_APPS):
        api.apply(app_model(f"app{number}", {f"m{number}": "0"}, version="0"))
    redis_server.freeze()
    kubeconfig = api.kubeconfig(tmp_path / "kubeconfig")
    options = ("-A", "--kubeconfig", kubeconfig, "--redis", redis_server.url)
    with watch_process(area, *options) as process, Reader(area) as reader:
        reader.wait_ready(WAIT_SECONDS)
        before = resident_bytes(process.pid)
        for change in range(1, STORM_CHANGES + 1):
            number = change % STORM_APPS
            api.apply(app_model(f"app{number}", {f"m{number}": str(change)}, version=str(change)))
        newest = {f"m{change % STORM_APPS}": str(change) for change in range(1, STORM_CHANGES + 1)}
        wait_for(lambda: {model: route.version for model, route in reader.models().items()} == newest, 30.0)

        assert api.requests.count("watch", "appmodels") <= 2, "the watch was never too slow to be kept"
        assert reader.generation <= STORM_CHANGES + 2
        assert resident_bytes(process.pid) - before < STORM_BYTES
        assert {route.metadata_state for route in reader.models().values()} == {"pending"}

        redis_server.thaw()
        with redis_server.client() as client:
            client.mset({f"app{number}_m{number}": "{}" for number in range(STORM_APPS)})
        wait_for(lambda: {route.metadata_state for route in reader.models().values()} == {"loaded"}, 60.0)
        assert {(route.version, route.metadata_version) for route in reader.models().values()} == {
            (version, version) for version in newest.values()
        }


@pytest.mark.fault(28)
@pytest.mark.parametrize("small", [1_000, pytest.param(2_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("steps", [36, 1], ids=["step by step", "at once"])
def test_28_table_is_served_while_it_grows_tenfold_and_shrinks(
    area: str, small: int, steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    large = 10 * small
    step = (large - small) // steps
    with running(area) as it:
        it.source.put(Replaced("appmodels", tuple(appmodel(f"m{number}") for number in range(small))))
        errors: list[str] = []
        looks = [0]
        stop = threading.Event()

        def look() -> None:
            with Reader(area) as worker:
                generation = 0
                while not stop.is_set():
                    for number in range(0, small, 37):
                        try:
                            assert worker.resolve(f"m{number}").app == f"m{number}"
                            assert worker.generation >= generation
                            generation = worker.generation
                        except Exception as error:  # noqa: BLE001 - whatever it is, the test shall see it
                            errors.append(repr(error))
                        looks[0] += 1
                    stop.wait(LOOK_SECONDS)

        with reading(area) as reader:
            thread = threading.Thread(target=look)
            thread.start()
            try:
                for first in range(small, large, step):
                    it.source.put(*(Changed("appmodels", appmodel(f"m{first + each}")) for each in range(step)))
                wait_for(lambda: reader.get(f"m{large - 1}"), 60.0)  # events are applied in order
                assert len(reader.models()) == large
                assert reader.resolve(f"m{large - 1}").app == f"m{large - 1}"
                it.source.put(Replaced("appmodels", tuple(appmodel(f"m{number}") for number in range(small))))
                wait_for(lambda: not reader.get(f"m{large - 1}"), 60.0)
                assert len(reader.models()) == small
                so_far = looks[0]
                wait_for(lambda: looks[0] > so_far)
            finally:
                stop.set()
                thread.join()
        assert errors == []
        # What does not fit is known beforehand: a segment that overflows would be taken for a damaged one, and mended.
        assert caplog.messages == []
