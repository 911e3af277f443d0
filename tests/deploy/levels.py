"""The rules of the Pod Security Standards that our pods could break.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_BASELINE_CAPABILITIES = frozenset(
    {
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "KILL",
        "MKNOD",
        "NET_BIND_SERVICE",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_CHROOT",
    }
)
_RESTRICTED_VOLUMES = frozenset(
    ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"]
)


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", ()), *pod["containers"]]


def breaches_of_baseline(pod: dict[str, Any]) -> Iterator[str]:
    yield from (field for field in ("hostNetwork", "hostPID", "hostIPC") if pod.get(field))
    yield from (f"volume {volume['name']}" for volume in pod.get("volumes", ()) if "hostPath" in volume)
    for container in containers(pod):
        security = container.get("securityContext", {})
        if security.get("privileged"):
            yield f"{container['name']}: privileged"
        if added := set(security.get("capabilities", {}).get("add", ())) - _BASELINE_CAPABILITIES:
            yield f"{container['name']}: adds {added}"
        yield from (f"{container['name']}: hostPort" for port in container.get("ports", ()) if "hostPort" in port)


def breaches_of_restricted(pod: dict[str, Any]) -> Iterator[str]:
    yield from breaches_of_baseline(pod)
    for volume in pod.get("volumes", ()):
        if not set(volume) - {"name"} <= _RESTRICTED_VOLUMES:
            yield f"volume {volume['name']}"
    shared = pod.get("securityContext", {})
    for container in containers(pod):
        security = {**shared, **container.get("securityContext", {})}
        capabilities = security.get("capabilities", {})
        wanted = {
            "runAsNonRoot": security.get("runAsNonRoot") is True,
            "runAsUser": security.get("runAsUser") != 0,
            "allowPrivilegeEscalation": security.get("allowPrivilegeEscalation") is False,
            "drops ALL": "ALL" in capabilities.get("drop", ()),
            "adds nothing": set(capabilities.get("add", ())) <= {"NET_BIND_SERVICE"},
            "seccompProfile": security.get("seccompProfile", {}).get("type") in ("RuntimeDefault", "Localhost"),
        }
        yield from (f"{container['name']}: {what}" for what, holds in wanted.items() if not holds)
