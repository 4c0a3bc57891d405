"""A strict reading of the manifests: every field must be one that Kubernetes (or the operator) has at that place, of its type.

A server drops a field that it does not know, or refuses it, and either is found out at three in the morning. These shapes have
what our manifests use and no more; a name that ends in ``!`` is required. Sources: the API references of apps/v1, v1, policy/v1,
monitoring.coreos.com/v1 and keda.sh/v1alpha1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

LABELS = {"*": str}
META = {"name!": str, "labels": LABELS}
SELECTOR = {"matchLabels!": LABELS}
SIZES = {"cpu": str, "memory": str}
PROBE = {
    "httpGet!": {"path!": str, "port!": (str, int)},
    "periodSeconds": int,
    "timeoutSeconds": int,
    "failureThreshold": int,
}
CONTAINER = {
    "name!": str,
    "image!": str,
    "args": [str],
    "env": [{"name!": str, "value": str}],
    "ports": [{"name": str, "containerPort!": int}],
    "startupProbe": PROBE,
    "livenessProbe": PROBE,
    "readinessProbe": PROBE,
    "resources": {"requests": SIZES, "limits": SIZES},
    "securityContext": {
        "allowPrivilegeEscalation": bool,
        "readOnlyRootFilesystem": bool,
        "capabilities": {"add": [str], "drop": [str]},
    },
    "volumeMounts": [{"name!": str, "mountPath!": str, "readOnly": bool}],
}
VOLUME = {
    "name!": str,
    "configMap": {"name!": str},
    "secret": {"secretName!": str, "items": [{"key!": str, "path!": str}]},
    "emptyDir": {"medium": str, "sizeLimit": str},
}
POD = {
    "terminationGracePeriodSeconds": int,
    "enableServiceLinks": bool,
    "automountServiceAccountToken": bool,
    "securityContext": {
        "runAsNonRoot": bool,
        "runAsUser": int,
        "runAsGroup": int,
        "fsGroup": int,
        "seccompProfile": {"type!": str},
    },
    "containers!": [CONTAINER],
    "volumes": [VOLUME],
}
KINDS: dict[tuple[str, str], dict[str, Any]] = {
    ("v1", "ConfigMap"): {"data": LABELS},
    ("apps/v1", "Deployment"): {
        "spec!": {
            "replicas": int,
            "selector!": SELECTOR,
            "strategy": {"rollingUpdate": {"maxSurge": (int, str), "maxUnavailable": (int, str)}},
            "template!": {"metadata!": {"labels!": LABELS}, "spec!": POD},
        }
    },
    ("policy/v1", "PodDisruptionBudget"): {
        "spec!": {"minAvailable": (int, str), "maxUnavailable": (int, str), "selector!": SELECTOR}
    },
    ("monitoring.coreos.com/v1", "PodMonitor"): {
        "spec!": {
            "jobLabel": str,
            "selector!": SELECTOR,
            "podMetricsEndpoints!": [{"port": str, "path": str, "interval": str, "scrapeTimeout": str}],
        }
    },
    ("keda.sh/v1alpha1", "TriggerAuthentication"): {
        "spec!": {"secretTargetRef": [{"parameter!": str, "name!": str, "key!": str}]}
    },
    ("keda.sh/v1alpha1", "ScaledObject"): {
        "spec!": {
            "scaleTargetRef!": {"name!": str},
            "pollingInterval": int,
            "cooldownPeriod": int,
            "minReplicaCount": int,
            "maxReplicaCount": int,
            "triggers!": [{"type!": str, "metadata!": LABELS, "authenticationRef": {"name!": str}}],
        }
    },
}


def complaints(document: dict[str, Any]) -> list[str]:
    """What is wrong with a manifest; nothing if it is one."""
    kind = (document.get("apiVersion"), document.get("kind"))
    if kind not in KINDS:
        return [f"no shape of {kind}"]
    return list(_wrong({"apiVersion!": str, "kind!": str, "metadata!": META, **KINDS[kind]}, document, str(kind[1])))


def _wrong(shape: Any, value: Any, at: str) -> Iterator[str]:
    if isinstance(shape, dict):
        yield from _wrong_fields(shape, value, at)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{at}: a list is wanted"
            return
        for number, item in enumerate(value):
            yield from _wrong(shape[0], item, f"{at}[{number}]")
    elif not isinstance(value, shape) or (isinstance(value, bool) and shape is not bool):
        yield f"{at}: {value!r} is of the wrong type"


def _wrong_fields(shape: dict[str, Any], value: Any, at: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{at}: fields are wanted"
        return
    fields = {name.rstrip("!"): inner for name, inner in shape.items()}
    yield from (f"{at}.{name[:-1]} is missing" for name in shape if name.endswith("!") and name[:-1] not in value)
    for name, inner in value.items():
        if name in fields or "*" in fields:
            yield from _wrong(fields.get(name, fields.get("*")), inner, f"{at}.{name}")
        else:
            yield f"{at}.{name} is not a field"
