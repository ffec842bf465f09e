"""The manifests: valid by Kubernetes' own schemas, and of one mind with the settings, the metrics and each other."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prometheus_client import CollectorRegistry

from app.settings import Settings, load
from app.telemetry.prometheus import Metrics
from app.web.exposure import check_exposure

FOLDER = Path(__file__).resolve().parents[2] / "config" / "kubernetes"
DOCUMENTS: list[dict[str, Any]] = [
    document for path in sorted(FOLDER.glob("*.yaml")) for document in yaml.safe_load_all(path.read_text("utf-8"))
]
KINDS = {document["kind"]: document for document in DOCUMENTS}
VERSIONS = ("1.30", "1.34", "1.37")  # the first that knows preStop's sleep, and the newest that there is a schema of
POD: dict[str, Any] = KINDS["Deployment"]["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
LABELS = KINDS["Deployment"]["spec"]["template"]["metadata"]["labels"]


def checked(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """What the pods are run with."""
    config = tmp_path / "sluiceway.toml"
    config.write_text(KINDS["ConfigMap"]["data"]["sluiceway.toml"], "utf-8")
    environ = {
        "SLUICEWAY_API_KEYS": "web:a-key-of-the-web-page",
        "SLUICEWAY_PEER_HOST": "10.1.2.3",
        "SLUICEWAY_REDIS_URL": "redis://r",
    }
    assert environ.keys() <= {variable["name"] for variable in CONTAINER["env"]}
    return load(config, environ)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["kind"])
def test_a_manifest_is_what_kubernetes_takes(document: dict[str, Any], version: str) -> None:
    checked(document, version)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "template", "spec", "terminationGracePeriod"), 330),
        (("spec", "template", "spec", "containers", 0, "livenesProbe"), {}),
        (("spec", "strategy", "rollingUpdate", "maxUnavailable"), [0]),
        (("spec", "template", "spec", "containers", 0, "lifecycle", "preStop", "sleep", "seconds"), "five"),
    ],
)
def test_a_slip_in_one_is_found(path: tuple[Any, ...], value: object) -> None:
    document = deepcopy(KINDS["Deployment"])
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        checked(document, VERSIONS[-1])


def test_the_settings_of_the_pods_can_be_run(settings: Settings) -> None:
    check_exposure(settings)
    assert settings.listening.host == settings.listening.admin_host == "0.0.0.0", "what is asked from outside the pod"
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert ports == {
        "http": settings.listening.port,
        "admin": settings.listening.admin_port,
        "peers": settings.fleet.peer_port,
    }


def test_a_pod_has_the_time_that_its_drain_takes(settings: Settings) -> None:
    before_s = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["terminationGracePeriodSeconds"] >= before_s + settings.streams.drain_s + 20
    assert settings.streams.drain_s >= 60, "answers are long"


def test_probes_ask_the_admin_port_and_load_restarts_nothing() -> None:
    probes = {name: CONTAINER[f"{name}Probe"] for name in ("startup", "readiness", "liveness")}
    asked = {name: (probe["httpGet"]["path"], probe["httpGet"]["port"]) for name, probe in probes.items()}
    assert asked == {
        "startup": ("/healthz", "admin"),
        "readiness": ("/readyz", "admin"),
        "liveness": ("/healthz", "admin"),
    }
    assert probes["liveness"]["periodSeconds"] * probes["liveness"]["failureThreshold"] >= 30
    assert probes["readiness"]["periodSeconds"] * probes["readiness"]["failureThreshold"] <= 5


def test_a_rollout_and_an_emptied_node_take_no_pod_before_another_serves() -> None:
    assert KINDS["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert KINDS["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    assert KINDS["HorizontalPodAutoscaler"]["spec"]["minReplicas"] >= 2


def test_a_pod_may_nothing_that_it_need_not() -> None:
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["runAsUser"] > 0
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert POD["automountServiceAccountToken"] is False
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "cpu" not in CONTAINER["resources"]["limits"], "a throttled loop is late for every stream"


def test_it_scales_by_a_metric_that_the_service_has_and_pods_go_slowly() -> None:
    spec = KINDS["HorizontalPodAutoscaler"]["spec"]
    (metric,) = spec["metrics"]
    Metrics(registry := CollectorRegistry(), ["claude-opus-4-8"])
    assert metric["pods"]["metric"]["name"] in {family.name for family in registry.collect()}
    assert spec["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 300


def test_what_one_names_another_has() -> None:
    assert all(document["metadata"]["name"] == "sluiceway" for document in DOCUMENTS)
    assert LABELS.items() >= KINDS["Deployment"]["spec"]["selector"]["matchLabels"].items()
    assert LABELS.items() >= KINDS["Service"]["spec"]["selector"].items()
    assert LABELS.items() >= KINDS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items()
    assert LABELS.items() >= KINDS["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items()
    target = KINDS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", KINDS["Deployment"]["metadata"]["name"])
    names = {port["name"] for port in CONTAINER["ports"]}
    assert {port["targetPort"] for port in KINDS["Service"]["spec"]["ports"]} <= names
    opened = {port["port"] for rule in KINDS["NetworkPolicy"]["spec"]["ingress"] for port in rule["ports"]}
    assert opened == names
    volumes = {volume["name"] for volume in POD["volumes"]}
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == volumes
    assert CONTAINER["args"][-1] == "/etc/sluiceway/sluiceway.toml"


def test_no_secret_stands_in_a_manifest() -> None:
    for variable in CONTAINER["env"]:
        if variable["name"] != "SLUICEWAY_PEER_HOST":
            assert variable["valueFrom"]["secretKeyRef"]["name"] == "sluiceway", variable["name"]
