"""A watcher with exactly the rights of deploy/: they suffice, and the error names a right that is revoked."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config

from shmroute import Reader
from shmroute.kube import Connection
from shmroute.resources.registry import BUILT_IN
from shmroute.rows import SettingsRow
from shmroute.sources.kubernetes.source import KubernetesSource
from shmroute.sources.kubernetes.timing import Timing
from shmroute.watcher.http import serve
from shmroute.watcher.loop import WatcherLoop
from tests.cluster import Cluster
from tests.deploy.rendering import kustomized
from tests.e2e.running import appmodel, shmroute, until

GROUPS = {"appmodels": "iidp.com", "endpointslices": "discovery.k8s.io"}
RIGHTS = [(verb, resource) for resource in GROUPS for verb in ("list", "watch")]
ACCOUNT = "shmroute"
TOKEN_SECONDS = 600

SOON = Timing(
    watch_seconds=(3.0, 4.0),  # an open watch is not asked for its right again, only the next one
    backoff_first_seconds=0.1,
    backoff_cap_seconds=0.5,
    forbidden_seconds=0.5,
    probe_seconds=0.6,
    confirm_seconds=0.0,
)


class Account:
    """The ServiceAccount of deploy/, bound to the Role of deploy/, and what its token may do."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self._user = f"system:serviceaccount:{cluster.namespace}:{ACCOUNT}"
        self.kubeconfig = folder / "account.kubeconfig"
        token = self._in_test_server() if cluster.server else self._in_real_cluster()
        given = yaml.safe_load(cluster.kubeconfig.read_text())
        given["users"] = [{"name": each["name"], "user": {"token": token}} for each in given["users"]]
        self.kubeconfig.write_text(yaml.safe_dump(given))

    def take(self, verb: str, resource: str) -> None:
        """Take one right away."""
        if self._cluster.server:
            self._cluster.server.auth.forbid(verb, resource, self._cluster.namespace, user=self._user)
        else:
            self._set([right for right in RIGHTS if right != (verb, resource)])

    def give_back(self) -> None:
        """Grant all documented rights again."""
        if self._cluster.server:
            self._cluster.server.auth.permit(self._user)
        else:
            self._set(RIGHTS)

    def _in_test_server(self) -> str:
        assert self._cluster.server
        auth = self._cluster.server.auth
        auth.add_token("account", self._user)
        for verb, resource in RIGHTS:
            auth.grant(self._user, verb, resource, self._cluster.namespace)
        return "account"

    def _in_real_cluster(self) -> str:
        with config.new_client_from_config(str(self._cluster.kubeconfig)) as api:  # type: ignore[no-untyped-call]
            core, rights = client.CoreV1Api(api), client.RbacAuthorizationV1Api(api)
            create: dict[str, Callable[..., Any]] = {
                "ServiceAccount": core.create_namespaced_service_account,
                "Role": rights.create_namespaced_role,
                "RoleBinding": rights.create_namespaced_role_binding,
            }
            for manifest in kustomized("namespaced", self._folder, self._cluster.namespace):
                create[manifest["kind"]](self._cluster.namespace, manifest)
            spec = client.V1TokenRequestSpec(audiences=[], expiration_seconds=TOKEN_SECONDS)
            answer = core.create_namespaced_service_account_token(
                ACCOUNT, self._cluster.namespace, client.AuthenticationV1TokenRequest(spec=spec)
            )
            assert answer.status
            return str(answer.status.token)

    def _set(self, rights: list[tuple[str, str]]) -> None:
        rules = [
            {"apiGroups": [GROUPS[resource]], "resources": [resource], "verbs": [verb]} for verb, resource in rights
        ]
        with config.new_client_from_config(str(self._cluster.kubeconfig)) as api:  # type: ignore[no-untyped-call]
            roles = client.RbacAuthorizationV1Api(api)
            roles.patch_namespaced_role("shmroute-watcher", self._cluster.namespace, {"rules": rules})


@pytest.fixture
def account(cluster: Cluster, tmp_path: Path) -> Account:
    return Account(cluster, tmp_path)


@contextlib.contextmanager
def watching(cluster: Cluster, account: Account, area: str) -> Iterator[Callable[[str], tuple[int, str]]]:
    """Yield a watcher as `shmroute watch` puts it together, but one that is quick to ask again; gives how to ask its
    port."""
    connection = Connection(str(account.kubeconfig))
    sources = [KubernetesSource(connection, each, namespace=cluster.namespace, timing=SOON) for each in BUILT_IN]
    watcher = WatcherLoop(area, sources, settings=SettingsRow(cluster.namespace, "", connection.host))
    thread = threading.Thread(target=watcher.run, name="watcher", daemon=True)
    server = serve(watcher, "127.0.0.1:0")

    def ask(path: str) -> tuple[int, str]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as wire:
            wire.request("GET", path)
            answer = wire.getresponse()
            return answer.status, answer.read().decode()

    thread.start()
    try:
        yield ask
    finally:
        server.close()
        watcher.stop()
        thread.join(10)
        assert not thread.is_alive(), "the watcher did not stop"


def missing(verb: str, resource: str, cluster: Cluster) -> str:
    """Return the expected text for a missing right."""
    where = f"{resource}.{GROUPS[resource]} in namespace '{cluster.namespace}'"
    return f"not allowed to {verb} {where}: a role must grant the verb '{verb}'"


@pytest.mark.parametrize(("verb", "resource"), RIGHTS)
def test_missing_right_is_named_and_recovery_follows_its_return(
    cluster: Cluster, account: Account, area: str, verb: str, resource: str, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.apply(appmodel("one", "one", "v1", {"first": "1"}))
    said = missing(verb, resource, cluster)
    with watching(cluster, account, area) as ask, Reader(area) as reader:
        reader.wait_ready(30)
        until(lambda: reader.get("first"), "first route")
        until(lambda: ask("/readyz") == (200, "ok\n"), "readiness, told right after the first snapshot")

        account.take(verb, resource)
        until(lambda: said in ask("/readyz")[1], "word of the missing right")
        assert ask("/readyz")[0] == ask("/healthz")[0] == 200, "ready and alive: the last state is served"
        assert said in caplog.text
        assert said in shmroute("status", "--area", area).stdout
        assert reader.get("first")

        account.give_back()
        cluster.apply(appmodel("two", "two", "v1", {"second": "1"}))
        until(lambda: reader.get("second"), "route written after the right was back")
        until(lambda: ask("/readyz") == (200, "ok\n"), "end of the complaint")


@pytest.mark.parametrize("resource", GROUPS)
def test_watcher_without_the_right_names_the_verb_and_starts_later(
    cluster: Cluster, account: Account, area: str, resource: str
) -> None:
    cluster.apply(appmodel("one", "one", "v1", {"first": "1"}))
    said = missing("watch", resource, cluster)
    account.take("watch", resource)
    with watching(cluster, account, area) as ask, Reader(area) as reader:
        until(lambda: said in ask("/readyz")[1], "word of the missing right")
        assert ask("/healthz")[0] == 200
        if resource == "appmodels":
            assert ask("/readyz")[0] == 503

        account.give_back()
        reader.wait_ready(30)
        until(lambda: reader.get("first"), "first route")
        until(lambda: ask("/readyz") == (200, "ok\n"), "end of the complaint")


def test_missing_verb_list_is_reported_by_the_probe(cluster: Cluster, account: Account, area: str) -> None:
    cluster.apply(appmodel("one", "one", "v1", {"first": "1"}))
    account.take("list", "appmodels")
    with watching(cluster, account, area) as ask, Reader(area) as reader:
        reader.wait_ready(30)
        until(lambda: reader.get("first"), "first route")
        until(lambda: missing("list", "appmodels", cluster) in ask("/readyz")[1], "word of the missing right")


def test_a_missing_permission_is_named_and_nothing_is_written(cluster: Cluster, account: Account) -> None:
    options = ("--kubeconfig", str(account.kubeconfig))
    written = shmroute(
        "apply", "app", "--version", "v1", "--model", "m=1", "-n", cluster.namespace, *options, check=False
    )
    assert written.returncode == 1
    assert "cannot get resource" in written.stderr
    assert "Traceback" not in written.stderr
    installed = shmroute("crd", "install", *options, check=False)
    assert installed.returncode == 1
    assert "needs the verbs get, create and patch on customresourcedefinitions" in installed.stderr
    deleted = shmroute("delete", "app", "-n", cluster.namespace, *options, check=False)
    assert deleted.returncode == 1
    assert 'cannot delete resource "appmodels"' in deleted.stderr
    assert cluster.list("AppModel") == []
