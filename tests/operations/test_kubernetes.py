"""The manifests: well-formed, consistent with each other, and with what the worker is."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pythia.config import WorkerConfig
from tests.operations.shapes import complaints

FOLDER = Path(__file__).resolve().parents[2] / "config" / "kubernetes"
FILES = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def one(kind: str) -> dict[str, Any]:
    (found,) = [document for path in FILES for document in documents(path) if document["kind"] == kind]
    return found


@pytest.fixture
def pod() -> dict[str, Any]:
    return one("Deployment")["spec"]["template"]["spec"]


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    return only


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_field_is_one_that_there_is_and_of_its_type(path: Path):
    assert [complaint for document in documents(path) for complaint in complaints(document)] == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda pod: pod.update(terminationGraceperiodSeconds=40), "terminationGraceperiodSeconds is not a field"),
        (lambda pod: pod.update(enableServiceLinks="false"), "is of the wrong type"),
        (lambda pod: pod["containers"][0].pop("image"), "image is missing"),
        (lambda pod: pod["containers"][0]["livenessProbe"]["httpGet"].update(paht="/livez"), "paht is not a field"),
    ],
)
def test_a_mistake_would_be_found(change, complaint: str):
    document = copy.deepcopy(one("Deployment"))
    change(document["spec"]["template"]["spec"])
    (found,) = complaints(document)
    assert complaint in found


def test_the_kustomization_lists_every_manifest():
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert sorted(kustomization["resources"]) == [path.name for path in FILES]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_reads_the_kustomization():
    done = subprocess.run(["kubectl", "kustomize", FOLDER], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_pod_is_given_more_time_to_stop_than_the_worker_takes(pod: dict[str, Any]):
    assert pod["terminationGracePeriodSeconds"] == 40
    assert pod["terminationGracePeriodSeconds"] >= WorkerConfig().drain_timeout_seconds + 5


def test_no_probe_is_tripped_by_a_handler_that_blocks(container: dict[str, Any]):
    """The routes stay green for a minute of it; what is left is that an answer may be late."""
    probes = {name: container[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    asked = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    assert asked == {"startup": "/startupz", "liveness": "/livez", "readiness": "/readyz"}
    assert all(probe["timeoutSeconds"] >= 3 for probe in probes.values())
    assert probes["liveness"]["periodSeconds"] * probes["liveness"]["failureThreshold"] >= 30
    assert probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"] >= 60
    (port,) = container["ports"]
    assert {probe["httpGet"]["port"] for probe in probes.values()} == {port["name"]}


def test_the_pod_has_no_privilege_and_may_write_only_to_its_volumes(pod: dict[str, Any], container: dict[str, Any]):
    assert pod["enableServiceLinks"] is False
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 10001  # the image's
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    confined = container["securityContext"]
    assert confined["allowPrivilegeEscalation"] is False
    assert confined["readOnlyRootFilesystem"] is True
    assert confined["capabilities"] == {"drop": ["ALL"]}
    assert "memory" in container["resources"]["limits"]
    mounted = {mount["name"]: mount for mount in container["volumeMounts"]}
    assert set(mounted) == {volume["name"] for volume in pod["volumes"]}
    assert {mount["mountPath"] for mount in mounted.values() if not mount.get("readOnly")} == {"/data", "/tmp"}


def test_the_password_comes_from_a_file_and_stands_in_no_manifest(container: dict[str, Any]):
    (variable,) = container["env"]
    assert variable["name"] == "PYTHIA_BROKER__URL_FILE"
    (broker,) = [mount for mount in container["volumeMounts"] if mount["name"] == "broker"]
    assert variable["value"] == f"{broker['mountPath']}/url"
    assert not [document for path in FILES for document in documents(path) if document["kind"] == "Secret"]


def test_the_mounted_configuration_is_one_that_the_worker_takes(tmp_path: Path, container: dict[str, Any]):
    (tmp_path / "pythia.toml").write_text(one("ConfigMap")["data"]["pythia.toml"])
    config = WorkerConfig.load(str(tmp_path / "pythia.toml"))
    assert config.http.host == "0.0.0.0"
    assert config.http.port == container["ports"][0]["containerPort"]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == "config"]
    assert mount["mountPath"] == "/app/config"


def test_everything_means_the_same_pods(pod: dict[str, Any]):
    deployment = one("Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [deployment, one("PodDisruptionBudget"), one("PodMonitor")]
    assert all(found["spec"]["selector"]["matchLabels"].items() <= labels.items() for found in selectors)
    monitor = one("PodMonitor")["spec"]
    assert labels[monitor["jobLabel"]] == "pythia", "the job that the alert rules ask about"
    scaled = one("ScaledObject")["spec"]
    assert scaled["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert scaled["minReplicaCount"] >= 1
    assert scaled["triggers"][0]["authenticationRef"]["name"] == one("TriggerAuthentication")["metadata"]["name"]
    assert 'queue = "orders"' in one("ConfigMap")["data"]["pythia.toml"]
    assert scaled["triggers"][0]["metadata"]["queueName"] == "orders"
    assert json.dumps(pod).count("orders-broker") == 1
