"""The Kubernetes files: each overlay renders, is valid to the letter, and says what a farm needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from tests.deploy.reader import Manifest, containers, manifests, read_kustomization, render
from tests.deploy.words import DEPLOY
from workers.config import WorkerConfig
from workers.numbers import NUMBERS

KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = sorted(path.parent for path in KUBERNETES.glob("overlays/*/kustomization.yaml"))
KEDA = KUBERNETES / "components" / "keda"
GRACE = WorkerConfig.__dataclass_fields__["grace_seconds"].default

overlays = pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ScaleTarget(_Strict):
    api_version: Literal["apps/v1"] = Field(alias="apiVersion")
    kind: Literal["Deployment"]
    name: str


class ScaleDown(_Strict):
    stabilization_window_seconds: int = Field(alias="stabilizationWindowSeconds", ge=0, le=3600)
    policies: list[dict[Literal["type", "value", "periodSeconds"], str | int]]


class Behavior(_Strict):
    scale_down: ScaleDown = Field(alias="scaleDown")


class HpaConfig(_Strict):
    behavior: Behavior


class Advanced(_Strict):
    hpa: HpaConfig = Field(alias="horizontalPodAutoscalerConfig")


class MetricsApi(_Strict):
    """Metadata of KEDA's metrics-api scaler; all values are strings."""

    url: str
    format: Literal["prometheus"]
    value_location: str = Field(alias="valueLocation", pattern=r"^neuroscan_[a-z_]+$")
    target_value: str = Field(alias="targetValue", pattern=r"^[1-9]\d*$")


class Trigger(_Strict):
    type: Literal["metrics-api"]
    name: str
    metric_type: Literal["AverageValue"] = Field(alias="metricType")
    metadata: MetricsApi


class ScaledObjectSpec(_Strict):
    target: ScaleTarget = Field(alias="scaleTargetRef")
    least: int = Field(alias="minReplicaCount")
    most: int = Field(alias="maxReplicaCount", ge=1)
    polling: int = Field(alias="pollingInterval", ge=1)
    cooldown: int = Field(alias="cooldownPeriod", ge=0)
    advanced: Advanced
    triggers: list[Trigger]


class Metadata(_Strict):
    name: str
    labels: dict[str, str]


class ScaledObject(_Strict):
    """The fields of keda.sh/v1alpha1 ScaledObject that we use, as its documentation describes them."""

    api_version: Literal["keda.sh/v1alpha1"] = Field(alias="apiVersion")
    kind: Literal["ScaledObject"]
    metadata: Metadata
    spec: ScaledObjectSpec


def one(rendered: list[Manifest], kind: str, name: str) -> Any:
    (found,) = (each for each in rendered if each["kind"] == kind and each["metadata"]["name"] == name)
    return found


def test_every_file_is_used_by_a_kustomization() -> None:
    used = set()
    for path in KUBERNETES.rglob("kustomization.yaml"):
        wanted = read_kustomization(path.parent)
        for name in (*wanted.resources, *wanted.components, *(patch.path for patch in wanted.patches)):
            assert (path.parent / name).exists(), f"{path}: {name}"
            used.add((path.parent / name).resolve())
        used.add(path.resolve())
    assert {path.resolve() for path in KUBERNETES.rglob("*") if path.is_file()} <= used


@overlays
def test_an_overlay_is_valid_to_kubernetes_own_schemas(overlay: Path, tmp_path: Path) -> None:
    known = [each for each in render(overlay) if each["apiVersion"] != "keda.sh/v1alpha1"]
    assert len(known) >= 12
    file = tmp_path / "rendered.yaml"
    file.write_text(yaml.safe_dump_all(known), encoding="utf-8")
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARN" not in done.stdout + done.stderr


def test_the_validator_finds_a_wrong_key_and_a_wrong_type(tmp_path: Path) -> None:
    for wrong in ({"replicaz": 1}, {"replicas": "two"}):
        (worker,) = manifests(KUBERNETES / "base" / "worker.yaml")
        worker["spec"] |= wrong
        file = tmp_path / "wrong.yaml"
        file.write_text(yaml.safe_dump(worker), encoding="utf-8")
        command = [sys.executable, "-m", "kubernetes_validate", "--strict", str(file)]
        assert subprocess.run(command, capture_output=True, check=False).returncode != 0


@overlays
def test_our_reader_renders_what_kubectl_renders(overlay: Path) -> None:
    rendered = render(overlay)
    kubectl = shutil.which("kubectl")
    if kubectl is None:  # the reader's own checks above stand; there is nothing to compare it with
        return
    done = subprocess.run([kubectl, "kustomize", str(overlay)], capture_output=True, text=True, check=True)
    theirs = list(yaml.safe_load_all(done.stdout))

    def by_name(manifest: Manifest) -> tuple[str, str]:
        return manifest["kind"], manifest["metadata"]["name"]

    assert sorted(rendered, key=by_name) == sorted(theirs, key=by_name)


@overlays
def test_every_container_is_confined(overlay: Path) -> None:
    for manifest in render(overlay):
        for container in containers(manifest):
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            pod = manifest["spec"]["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["runAsUser"] > 10000
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            assert pod["automountServiceAccountToken"] is False
            assert container["resources"]["limits"]["memory"]
            assert {"readinessProbe", "livenessProbe"} <= set(container)
            assert ":" in container["image"]
            assert not container["image"].endswith(":latest")


@overlays
def test_what_a_pod_mounts_and_reads_is_there(overlay: Path) -> None:
    rendered = render(overlay)
    outside = {"neuroscan-broker", "neuroscan-object-store"}  # secrets, made by the operator
    for manifest in rendered:
        for container in containers(manifest):
            pod = manifest["spec"]["template"]["spec"]
            claimed = [each["metadata"]["name"] for each in manifest["spec"].get("volumeClaimTemplates", ())]
            volumes = {volume["name"] for volume in pod["volumes"]} | set(claimed)
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes
            for volume in pod["volumes"]:
                if claim := volume.get("persistentVolumeClaim"):
                    one(rendered, "PersistentVolumeClaim", claim["claimName"])
                if configuration := volume.get("configMap"):
                    one(rendered, "ConfigMap", configuration["name"])
            for source in container.get("envFrom", ()):
                if "configMapRef" in source:
                    one(rendered, "ConfigMap", source["configMapRef"]["name"])
                else:
                    assert source["secretRef"]["name"] in outside
            for variable in container.get("env", ()):
                if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                    assert reference["name"] in outside


@overlays
def test_no_password_stands_in_a_manifest(overlay: Path) -> None:
    rendered = render(overlay)
    assert "Secret" not in {manifest["kind"] for manifest in rendered}
    for manifest in rendered:
        for container in containers(manifest):
            variables = {each["name"]: each for each in container.get("env", ())}
            if "NEUROSCAN_BROKER_URL" in variables:
                assert variables["NEUROSCAN_BROKER_URL"]["value"] == "redis://:$(REDIS_PASSWORD)@redis:6379/0"
                names = list(variables)  # a variable may use those before it alone
                assert names.index("REDIS_PASSWORD") < names.index("NEUROSCAN_BROKER_URL")


@overlays
def test_a_worker_is_given_longer_than_its_own_grace(overlay: Path) -> None:
    worker = one(render(overlay), "Deployment", "worker")["spec"]
    assert worker["template"]["spec"]["terminationGracePeriodSeconds"] >= GRACE + 10
    assert "replicas" not in worker, "kubectl scale or KEDA says how many"
    assert worker["strategy"]["rollingUpdate"]["maxSurge"] == 0


@overlays
def test_the_cache_fits_its_volume(overlay: Path) -> None:
    rendered = render(overlay)
    settings = one(rendered, "ConfigMap", "neuroscan-settings")["data"]
    volumes = one(rendered, "Deployment", "worker")["spec"]["template"]["spec"]["volumes"]
    (cache,) = (volume for volume in volumes if volume["name"] == "cache")
    gibibytes = int(cache["emptyDir"]["sizeLimit"].removesuffix("Gi"))
    assert gibibytes * 2**30 > float(settings["NEUROSCAN_CACHE_GB"]) * 10**9


def test_each_overlay_is_what_its_name_says() -> None:
    rendered = {path.name: render(path) for path in OVERLAYS}
    assert set(rendered) == {"cpu", "gpu", "object-store"}
    for name, manifests_ in rendered.items():
        pod = one(manifests_, "Deployment", "worker")["spec"]["template"]["spec"]
        settings = one(manifests_, "ConfigMap", "neuroscan-settings")["data"]
        claims = {each["metadata"]["name"] for each in manifests_ if each["kind"] == "PersistentVolumeClaim"}
        limits = pod["containers"][0]["resources"]["limits"]
        assert ("nvidia.com/gpu" in limits) == (name != "cpu")
        assert ("runs" in claims) == (name != "object-store")
        assert settings["NEUROSCAN_RUNS_DIR"].startswith("s3://") == (name == "object-store")
        assert settings["NEUROSCAN_RUNS_DIR"] == settings["NEUROSCAN_ROOTS"]


def test_the_broker_is_reached_by_the_farm_alone() -> None:
    policies = [each for each in render(OVERLAYS[0]) if each["kind"] == "NetworkPolicy"]
    by_name = {each["metadata"]["name"]: each["spec"] for each in policies}
    assert by_name["nobody-else"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    (rule,) = by_name["redis"]["ingress"]
    assert rule["ports"] == [{"protocol": "TCP", "port": 6379}]
    assert rule["from"][0]["podSelector"]["matchExpressions"][0]["values"] == ["coordinator", "worker"]


def test_services_and_policies_select_pods_that_exist() -> None:
    rendered = render(OVERLAYS[0])
    pods = [each["spec"]["template"]["metadata"]["labels"] for each in rendered if containers(each)]
    for each in rendered:
        if each["kind"] in {"Service", "PodDisruptionBudget"}:
            wanted = each["spec"]["selector"]
            wanted = wanted.get("matchLabels", wanted)
            assert any(wanted.items() <= labels.items() for labels in pods), each["metadata"]


def test_the_scaler_asks_the_coordinator_and_can_go_down_to_none() -> None:
    (scaler,) = (ScaledObject.model_validate(each) for each in manifests(KEDA / "scaledobject.yaml"))
    rendered = render(KUBERNETES / "overlays" / "object-store")
    one(rendered, "Deployment", scaler.spec.target.name)
    assert scaler.spec.least == 0
    for trigger in scaler.spec.triggers:
        url = urlsplit(trigger.metadata.url)
        service = one(rendered, "Service", str(url.hostname).partition(".")[0])
        # The operator lives in a namespace of its own: the whole name is needed.
        assert str(url.hostname).split(".")[1] == service["metadata"]["namespace"]
        assert url.port == service["spec"]["ports"][0]["port"]
        assert url.path == "/metrics"
        settings = one(rendered, "ConfigMap", "neuroscan-settings")["data"]
        assert int(settings["NEUROSCAN_METRICS_PORT"]) == url.port
        assert settings["NEUROSCAN_METRICS_HOST"] == "0.0.0.0"
    gauges = {trigger.metadata.value_location for trigger in scaler.spec.triggers}
    assert gauges == {"neuroscan_shards_missing", "neuroscan_shards_running"}
    # The scaler takes the first line of a metric: one with labels would be one run's number.
    plain = {number.name for number in NUMBERS if not number.labels and number.shown_by == "both"}
    assert gauges <= plain
