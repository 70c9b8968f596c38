"""The manifests against their schemas, each other, and the flows and presets that they run."""

import copy
import inspect
import re
import shlex
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from components.presets import load_preset
from components.training.training_settings import TrainParams
from flows.workers.compress_worker import CompressParams
from fwd2bot.commands.stages import compress as compress_command
from tests.deploy.kuberay import RayCluster, RayClusterSpec, RayJob, WorkerGroupSpec

ROOT = Path(__file__).parents[2]
PRESET = "llava-1.5-7b"
KINDS = {"RayCluster": RayCluster, "RayJob": RayJob}
NAMES = ("cluster", "train", "compress")
PLACEHOLDER = "REGISTRY/fwd2bot:VERSION"


def load(path: Path) -> Any:
    """As kubectl reads it: what an anchor stands for is in each of its places."""
    return copy.deepcopy(YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8")))


def manifest(name: str) -> RayCluster | RayJob:
    content = load(ROOT / "deploy" / f"{name}.yaml")
    return KINDS[content["kind"]].model_validate(content)


def cluster_of(name: str) -> RayClusterSpec:
    spec = manifest(name).spec
    return spec if isinstance(spec, RayClusterSpec) else spec.rayClusterSpec


def pods(cluster: RayClusterSpec) -> list[dict[str, Any]]:
    """The pod specs: the head's, then those of the worker groups."""
    return [group.template["spec"] for group in (cluster.headGroupSpec, *cluster.workerGroupSpecs)]


def check_kubernetes(resource: dict[str, Any]) -> None:
    kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


def pod_template(spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PodTemplate",
        "metadata": {"name": "x"},
        "template": {"spec": spec},
    }


def workers_that_fit(group: WorkerGroupSpec, cpus: int, gpus: int) -> int:
    """How many workers of so many CPUs and GPUs the group holds at its largest."""
    limits = group.template["spec"]["containers"][0]["resources"]["limits"]
    per_pod = [int(limits["cpu"]) // cpus] + (
        [int(limits.get("nvidia.com/gpu", 0)) // gpus] if gpus else []
    )
    return group.maxReplicas * min(per_pod)


@pytest.mark.parametrize("name", NAMES)
def test_pod_templates_are_what_kubernetes_takes(name: str) -> None:
    for spec in pods(cluster_of(name)):
        check_kubernetes(pod_template(spec))


def test_shared_folder_is_a_claim_that_many_machines_may_write() -> None:
    claim = load(ROOT / "deploy" / "shared.yaml")
    check_kubernetes(claim)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    names = {
        volume["persistentVolumeClaim"]["claimName"]
        for name in NAMES
        for pod in pods(cluster_of(name))
        for volume in pod["volumes"]
    }
    assert names == {claim["metadata"]["name"]}


def test_a_misspelt_field_is_found_at_any_depth() -> None:
    content = load(ROOT / "deploy" / "compress.yaml")
    content["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(ValidationError, match=r"workerGroupSpecs\.0\.maxReplica"):
        RayJob.model_validate(content)
    for broken in (
        {"toleration": []},
        {"containers": [{"name": "x", "imag": "y"}]},
        {"volumes": "shared"},
    ):
        with pytest.raises(kubernetes_validate.ValidationError):
            check_kubernetes(pod_template({**pods(cluster_of("compress"))[1], **broken}))


@pytest.mark.parametrize("name", NAMES)
def test_every_pod_has_the_image_the_user_the_folder_and_equal_requests_and_limits(
    name: str,
) -> None:
    for spec in pods(cluster_of(name)):
        (container,) = spec["containers"]
        assert container["image"] == PLACEHOLDER
        assert spec["securityContext"]["runAsUser"] == 1000
        assert "--uid 1000" in (ROOT / "deploy" / "Dockerfile").read_text()
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            volume["name"] for volume in spec["volumes"]
        }
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/shared"]
        # else Ray counts other CPUs
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert {"name": "PYTHONPATH", "value": "/shared/fwd2bot"} in container["env"]


@pytest.mark.parametrize("name", NAMES)
def test_every_cluster_checks_the_token_and_has_the_pinned_ray(name: str) -> None:
    cluster = cluster_of(name)
    assert cluster.authOptions
    assert (cluster.authOptions.mode, cluster.authOptions.secretName) == (
        "token",
        "fwd2bot-ray-token",
    )
    assert f"ray=={cluster.rayVersion}" in (ROOT / "constraints.txt").read_text().splitlines()
    ports = {
        port["name"]: port["containerPort"] for port in pods(cluster)[0]["containers"][0]["ports"]
    }
    assert ports == {"gcs-server": 6379, "dashboard": 8265, "client": 10001}
    assert cluster.headGroupSpec.rayStartParams["num-cpus"] == "0"


def test_documents_name_the_secret_the_claim_and_the_image() -> None:
    text = (ROOT / "docs" / "cluster.md").read_text()
    assert "secret generic fwd2bot-ray-token --from-" in text
    assert "auth_token" in text
    assert PLACEHOLDER in text
    assert all(f"deploy/{name}.yaml" in text for name in (*NAMES, "shared"))


@pytest.mark.parametrize("name", NAMES)
def test_replicas_are_between_their_bounds_and_scale_only_if_somebody_scales(name: str) -> None:
    cluster = cluster_of(name)
    for group in cluster.workerGroupSpecs:
        assert group.minReplicas <= group.replicas <= group.maxReplicas
        assert cluster.enableInTreeAutoscaling or group.minReplicas == group.maxReplicas
    assert bool(cluster.autoscalerOptions) == bool(cluster.enableInTreeAutoscaling)


@pytest.mark.parametrize("name", ["cluster", "train"])
def test_the_training_workers_of_the_preset_fit_one_machine(name: str) -> None:
    params = load_preset("train", TrainParams, PRESET, ROOT)
    group = next(group for group in cluster_of(name).workerGroupSpecs if group.groupName == "gpu")
    assert group.maxReplicas == 1
    assert (
        workers_that_fit(group, params.cpus_per_worker, params.gpus_per_worker)
        == params.num_workers
    )


@pytest.mark.parametrize("name", ["cluster", "compress"])
def test_the_compress_workers_of_the_preset_and_their_decoders_fit(name: str) -> None:
    params = load_preset("compress", CompressParams, PRESET, ROOT)
    groups = {group.groupName: group for group in cluster_of(name).workerGroupSpecs}
    assert (
        workers_that_fit(groups["gpu-spot"], params.cpus_per_worker, params.gpus_per_worker)
        == params.num_workers
    )
    cpus = sum(
        group.maxReplicas
        * int(group.template["spec"]["containers"][0]["resources"]["limits"]["cpu"])
        for group in (groups["gpu-spot"], groups["cpu-spot"])
    )
    assert cpus >= params.num_workers * (params.cpus_per_worker + params.decoders_per_worker)
    assert (
        "nvidia.com/gpu"
        not in groups["cpu-spot"].template["spec"]["containers"][0]["resources"]["limits"]
    )


@pytest.mark.parametrize("name", ["cluster", "compress"])
def test_groups_that_may_be_reclaimed_and_no_others_tolerate_spot_machines(name: str) -> None:
    for group in cluster_of(name).workerGroupSpecs:
        keys = {toleration["key"] for toleration in group.template["spec"].get("tolerations", [])}
        assert ("cloud.google.com/gke-spot" in keys) == group.groupName.endswith("-spot")
        assert ("nvidia.com/gpu" in keys) == group.groupName.startswith("gpu")


def test_jobs_run_a_stage_and_a_flow_of_this_repository_in_the_clone() -> None:
    stages = load(ROOT / "dvc.yaml")["stages"]
    commands = {}
    for name in ("train", "compress"):
        job = manifest(name).spec
        words = shlex.split(job.entrypoint)
        # KubeRay takes it apart and lets a shell read it: nothing to quote
        assert " ".join(words) == job.entrypoint
        assert words[:3] == ["env", "-C", "/shared/fwd2bot"]
        assert job.shutdownAfterJobFinishes
        assert job.backoffLimit > 0
        commands[name] = words[3:]
    assert commands["train"][:2] == ["dvc", "repro"]
    assert commands["train"][2] in stages
    assert commands["compress"][:3] == ["python", "-m", "flows.compress"]
    inspect.signature(compress_command).bind(*commands["compress"][3:])
    assert all(
        path.startswith("/shared/") or (ROOT / path).parent.is_dir()
        for path in commands["compress"][3:]
    )


def test_the_image_has_what_dvc_and_the_probes_need_and_not_the_project() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    for program in ("git", "wget"):
        assert re.search(rf"apt-get install .*\b{program}\b", text)
    assert "--constraint constraints.txt '.[cluster]'" in text
    assert "pip uninstall --yes fwd2bot" in text


def test_a_submitted_job_carries_the_code_and_neither_data_nor_models() -> None:
    excluded = set(load(ROOT / "deploy" / "runtime-env.yaml")["excludes"])
    assert {"/data", "/models", "/.git"} <= excluded
    assert not {"/flows", "/components", "/params.yaml", "/presets"} & excluded
