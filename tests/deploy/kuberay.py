"""Strict models of KubeRay's `ray.io/v1` objects, from its API reference (1.6 and 1.7).

Pod templates are Kubernetes' own; `kubernetes-validate` has their schema. A field that is not here
is an error, as for a server that validates fields strictly.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0, lt=2**31)]
StartParams = dict[str, str]  # `ray start` options; numbers are text


class KubeRay(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(KubeRay):
    # KubeRay makes longer names from it
    name: Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]{0,45}[a-z0-9])?$")]
    namespace: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class AuthOptions(KubeRay):
    mode: Literal["disabled", "token"]
    secretName: str | None = None
    enableK8sTokenAuth: bool | None = None


class AutoscalerOptions(KubeRay):
    version: Literal["v1", "v2"] | None = None
    idleTimeoutSeconds: Count | None = None
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] | None = None
    image: str | None = None
    imagePullPolicy: Literal["Always", "IfNotPresent", "Never"] | None = None
    resources: dict[str, Any] | None = None


class HeadGroupSpec(KubeRay):
    rayStartParams: StartParams
    template: dict[str, Any]
    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer"] | None = None
    enableIngress: bool | None = None


class WorkerGroupSpec(KubeRay):
    groupName: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
    replicas: Count
    minReplicas: Count
    maxReplicas: Count
    numOfHosts: Count = 1
    rayStartParams: StartParams
    template: dict[str, Any]
    idleTimeoutSeconds: Count | None = None  # autoscaler v2 only
    suspend: bool | None = None


class RayClusterSpec(KubeRay):
    rayVersion: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    authOptions: AuthOptions | None = None
    enableInTreeAutoscaling: bool | None = None
    autoscalerOptions: AutoscalerOptions | None = None
    headGroupSpec: HeadGroupSpec
    workerGroupSpecs: list[WorkerGroupSpec]
    suspend: bool | None = None


class RayJobSpec(KubeRay):
    entrypoint: str
    rayClusterSpec: RayClusterSpec
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"] | None = (
        None
    )
    runtimeEnvYAML: str | None = None
    shutdownAfterJobFinishes: bool
    ttlSecondsAfterFinished: Count = 0
    activeDeadlineSeconds: Count | None = None
    backoffLimit: Count = 0
    suspend: bool | None = None


class RayCluster(KubeRay):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: RayClusterSpec


class RayJob(KubeRay):
    apiVersion: Literal["ray.io/v1"]
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: RayJobSpec
