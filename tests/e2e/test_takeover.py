"""State that a new watcher takes over from a former one."""

from __future__ import annotations

import json
import signal

from tests.cluster import Cluster
from tests.e2e.running import appmodel, ready, shmroute, until, watcher


def test_last_valid_state_of_an_invalid_object_outlives_the_watcher(cluster: Cluster, area: str) -> None:
    cluster.apply(appmodel("iiot", "iiot", "v1", {"iiot_dataservice": "v-1"}))
    with watcher(cluster, area) as first:
        reader = ready(area)
        cluster.patch("AppModel", "iiot", {"spec": {"app": None}})
        until(lambda: "iiot" in shmroute("get", "invalid", "--area", area).stdout, "the invalid object")
        assert reader.resolve("iiot_dataservice").app == "iiot"
        first.send_signal(signal.SIGKILL)
        first.wait()
    with watcher(cluster, area):
        until(lambda: reader.synced, "sync of the new watcher")
        assert reader.resolve("iiot_dataservice").app == "iiot"
        (listed,) = json.loads(shmroute("get", "invalid", "--area", area, "-o", "json").stdout)["items"]
        assert listed["last_good"]
        cluster.delete("AppModel", "iiot")
        until(lambda: reader.get("iiot_dataservice") is None, "withdrawal by deletion")
