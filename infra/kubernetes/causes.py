"""Why a release does not come up, read from what Kubernetes says of its objects: one sentence and what to do. Pure.

Objects show *signs* (a container that waits, a pod that no node takes, an event, a condition); a row of `KNOWN` says what a sign means.
What the engine itself says in its log is infra/engine.py's table, and is more telling: it is asked first where there is a log.

    config    it can not heal: ConfigError          room      CapacityError
    denied    somebody has to open a door: Denied   passing   Transient
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from infra.errors import CapacityError, ConfigError, Denied, PipelineError, Transient

Object = dict[str, Any]
Kind = Literal["config", "denied", "room", "passing"]
Where = Literal["image", "container", "ended", "pod", "scheduling", "event", "condition"]

ERRORS: dict[Kind, type[PipelineError]] = {"config": ConfigError, "denied": Denied, "room": CapacityError, "passing": Transient}


@dataclass(frozen=True)
class Sign:
    """What one object says of itself. `about`: which one, as kubectl names it; `reason` and `text` in Kubernetes' own words."""

    where: Where
    about: str
    reason: str
    text: str

    @property
    def words(self) -> str:
        return f"{self.reason}: {self.text}" if self.text else self.reason


@dataclass(frozen=True)
class Known:
    """A row. `patience`: seconds that a sign has to stay before it is believed, since clusters heal much by themselves."""

    name: str
    where: tuple[Where, ...]
    pattern: re.Pattern[str]
    kind: Kind
    patience: float
    why: str
    next: str


@dataclass(frozen=True)
class Cause:
    """A row and the sign that it explains."""

    known: Known
    sign: Sign

    def error(self, what: str) -> PipelineError:
        """As it is told. The words of the cluster are the log line."""
        return ERRORS[self.known.kind](what, why=self.known.why, next=self.known.next, log=f"{self.sign.about}: {self.sign.words}"[:600])


def cause(signs: Iterable[Sign]) -> Cause | None:
    """What they mean: the row that stands first in the table."""
    return next(iter(causes(signs)), None)


def causes(signs: Iterable[Sign]) -> Sequence[Cause]:
    """All that is known of them, in the order of the table."""
    told = list(signs)
    return [Cause(row, sign) for row in KNOWN for sign in told if sign.where in row.where and row.pattern.search(sign.words)]


# ---------------------------------------------------------------- signs


def of_pod(pod: Object) -> Iterator[Sign]:
    """Of a pod and its containers."""
    about, status = f"pod {pod['metadata']['name']}", pod.get("status") or {}
    if status.get("reason"):
        yield Sign("pod", about, status["reason"], status.get("message") or "")
    for row in status.get("conditions") or ():
        if row["type"] == "PodScheduled" and row["status"] == "False":
            yield Sign("scheduling", about, row.get("reason") or "", row.get("message") or "")
        if row["type"] == "DisruptionTarget" and row["status"] == "True":
            yield Sign("pod", about, row.get("reason") or "", row.get("message") or "")
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        yield from _of_container(f"{about}, container {container['name']}", container)


def of_event(event: Object) -> Iterator[Sign]:
    """Of a warning; and of the one that the scheduler calls normal, although it ends a pod."""
    if event.get("type") == "Warning" or event.get("reason") == "Preempted":
        about = event.get("involvedObject") or {}
        yield Sign("event", f"{about.get('kind', 'object')} {about.get('name', '')}", event.get("reason") or "", event.get("message") or "")


def of_conditions(item: Object) -> Iterator[Sign]:
    """Of a Deployment, a RayCluster or a RayService: what its controller could not do."""
    status = item.get("status") or {}
    about = f"{item['kind']} {item['metadata']['name']}"
    rows = [*(status.get("conditions") or ())]
    for part in ("activeServiceStatus", "pendingServiceStatus"):
        rows += ((status.get(part) or {}).get("rayClusterStatus") or {}).get("conditions") or ()
    for row in rows:
        failed = row["type"] in ("ReplicaFailure", "RayClusterReplicaFailure") and row["status"] == "True"
        if failed or (row["type"] == "Progressing" and row["status"] == "False"):
            yield Sign("condition", about, row.get("reason") or "", row.get("message") or "")


def _of_container(about: str, status: Object) -> Iterator[Sign]:
    for key in ("state", "lastState"):
        state = status.get(key) or {}
        if waiting := state.get("waiting"):
            reason = waiting.get("reason") or ""
            yield Sign("image" if "Image" in reason else "container", about, reason, waiting.get("message") or "")
        if ended := state.get("terminated"):
            yield Sign("ended", about, ended.get("reason") or f"exit {ended.get('exitCode')}", ended.get("message") or f"exit code {ended.get('exitCode')}")


# ---------------------------------------------------------------- the table


def _row(name: str, where: str, pattern: str, kind: Kind, patience: float, why: str, next_: str) -> Known:
    return Known(name, tuple(where.split()), re.compile(pattern), kind, patience, why, next_)  # type: ignore[arg-type]


PULL = r"^(?:ErrImagePull|ImagePullBackOff|Failed|BackOff)\b.*"

KNOWN: tuple[Known, ...] = (
    # -- images: the registry's own words say whether waiting helps
    _row("image_name", "image", r"^InvalidImageName", "config", 0, "this is not the name of an image", "correct image: in the declaration"),
    _row("image_platform", "image ended container", r"no match for platform|exec format error", "config", 0,
         "the image was not built for the processors of this node", "build it for this platform, or choose other nodes by kubernetes.node_selector"),
    _row("image_missing", "image", PULL + r"(?:not found|manifest unknown|name unknown|NAME_UNKNOWN)", "config", 0,
         "the registry does not have this image", "correct image: in the declaration, or push the image again"),
    _row("image_denied", "image", PULL + r"(?:unauthorized|denied|authentication required|authorization failed|\b40[13]\b)", "denied", 0,
         "the registry gives this image only to those it knows", "make a Secret for it in the namespace and name it as kubernetes.image_pull_secret"),
    _row("image_disk", "image event", r"no space left on device", "room", 0, "the node's disk is too small for the image", "use nodes with a larger disk, or remove what lies there"),
    _row("image_certificate", "image", PULL + r"x509: ", "config", 30, "the nodes do not trust the registry's certificate", "give the nodes the registry's authority"),
    _row("image_unreachable", "image", PULL + r"(?:no such host|timeout|timed out|connection refused|network is unreachable|EOF)", "passing", 120,
         "the nodes do not reach the registry", "look whether the nodes may speak to it; then run the same command again"),
    _row("image_pull", "image", r"^(?:ErrImagePull|ImagePullBackOff|ImageInspectError|RegistryUnavailable)", "passing", 300,
         "the image could not be pulled", "kubectl describe pod tells more; then run the same command again"),
    # -- what the cluster's rules refuse
    _row("quota", "condition event", r"exceeded quota", "room", 0, "the namespace's quota is used up", "raise the ResourceQuota, lower what the release asks for, or take another model down"),
    _row("limit_range", "condition event", r"(?:maximum|minimum) \S+ usage per|must be less than or equal to", "config", 0,
         "the namespace's LimitRange does not allow pods of this size", "change the LimitRange, or `resources` in the declaration"),
    _row("pod_security", "condition event", r"violates PodSecurity", "config", 0, "the namespace's pod security level refuses our pods",
         "label it pod-security.kubernetes.io/enforce=restricted or weaker; pods that ask for more than that are made by kubernetes.pod_annotations or a webhook"),
    _row("webhook", "condition event", r"admission webhook .* denied|failed calling webhook", "config", 0,
         "a webhook of this cluster refuses our pods", "the words below name it: ask who runs it, or satisfy it"),
    _row("account", "condition event", r"error looking up service account", "passing", 60, "the namespace's service account is not there", "kubectl get serviceaccount; run the same command again"),
    _row("rayservice_refused", "event", r"^Invalid(?:RayService|RayCluster)\w*", "config", 0,
         "this version of KubeRay's operator refuses the RayService", "llm-pipeline generate MODEL prints it; use an operator that the check of the cluster asset calls supported"),
    # -- claims and volumes
    _row("claim_missing", "scheduling event", r"persistentvolumeclaim \"?[\w.-]+\"? not found", "passing", 10, "the claim with the weights is not there", "llm-pipeline up fills it again"),
    _row("claim_pending", "scheduling", r"unbound immediate PersistentVolumeClaims", "passing", 60,
         "the claim with the weights has no volume yet", "kubectl describe pvc says why; kubernetes.storage_class names another class"),
    _row("volume_elsewhere", "scheduling", r"volume node affinity conflict|didn't match PersistentVolume's node affinity", "config", 60,
         "the weights lie on a volume that no fitting node reaches: another zone or machine", "use a storage class that all engine nodes reach, or kubernetes.node_selector"),
    _row("volume_taken", "event", r"Multi-Attach error|volume is already used by pod|volume is already exclusively attached", "config", 120,
         "the volume with the weights can be on one node only, and is on another", "use a storage class with ReadWriteMany, or one node by kubernetes.node_selector"),
    _row("mount", "event", r"^(?:FailedMount|FailedAttachVolume|FailedMapVolume)", "passing", 120, "a volume could not be mounted", "kubectl describe pod tells more; run the same command again"),
    # -- room; of several reasons for several nodes the one that may pass comes first
    _row("gpus", "scheduling", r"Insufficient nvidia\.com/gpu", "room", 60, "no node has so many GPUs free", "take another model down, add GPU nodes, or lower resources.gpu"),
    _row("volumes_full", "scheduling", r"exceed max volume count", "room", 60, "the nodes can carry no more volumes", "add a node, or take another model down"),
    _row("resources", "scheduling", r"Insufficient (?:cpu|memory|ephemeral-storage)|Too many pods", "room", 60,
         "no node has so much CPU, memory or disk free", "take another model down, add nodes, or lower `resources` in the declaration"),
    _row("selector", "scheduling", r"didn't match Pod's node affinity/selector", "config", 60,
         "no node has the labels that are asked for", "correct kubernetes.node_selector, or label a node"),
    _row("taint", "scheduling", r"untolerated taint|had taint", "config", 60, "the nodes that would fit bear a taint", "bear it by kubernetes.tolerations, or choose other nodes by kubernetes.node_selector"),
    _row("unschedulable", "scheduling", r"^Unschedulable", "room", 120, "no node takes the pod", "the words below say why for each node"),
    _row("preempted", "pod event", r"^Preempt", "room", 0, "a pod of higher priority took the place", "give the engine's nodes to engines alone, or add nodes"),
    _row("node_refused", "pod", r"^(?:OutOf\w+|NodeAffinity|Node[A-Z]\w*Pressure)\b", "room", 30, "the node had no room when the pod came there", "run the same command again"),
    _row("evicted_disk", "pod event", r"^Evicted.*(?:ephemeral|disk)", "config", 0, "the pod used more disk than it may, or the node's disk was full", "raise resources.ephemeral_storage"),
    _row("evicted", "pod event", r"^(?:Evicted|TerminationByKubelet)", "room", 0, "the node ran short and threw the pod out", "use larger nodes, or declare resources.memory"),
    _row("drained", "pod", r"^(?:EvictionByEvictionAPI|DeletionByTaintManager|DeletionByPodGC)|^NodeLost|^NodeShutdown|^Terminated", "passing", 30,
         "the node went away, or was emptied", "run the same command again: the pod finds another"),
    # -- containers
    _row("device_plugin", "pod event", r"UnexpectedAdmissionError.*|Allocate failed", "passing", 60,
         "the node's device plugin could not give the GPU", "look at the NVIDIA device plugin of that node"),
    _row("gpu_driver", "container ended event", r"nvidia-container-cli|libcuda\.so|CUDA driver|no CUDA-capable device|nvml error", "config", 30,
         "the node has no usable GPU driver", "install NVIDIA's driver and container toolkit on the GPU nodes"),
    _row("program", "container ended", r"executable file not found|no such file or directory: unknown|exit code 127\b", "config", 0,
         "the image lacks the program that starts the engine", "use an image with Ray and vLLM: infra/serving/Dockerfile builds one"),
    _row("reference", "container event", r"(?:configmap|secret) \"[\w.-]+\" not found|couldn't find key", "passing", 60,
         "a Secret or ConfigMap that the pod names is not there", "make it, or correct its name in the declaration of the cluster"),
    _row("root", "container event", r"runAsNonRoot|non-numeric user", "config", 0, "the image wants to run as root", "build it with a numeric USER, as infra/serving/Dockerfile does"),
    _row("container_config", "container", r"^(?:CreateContainerConfigError|CreateContainerError|RunContainerError)", "passing", 60,
         "the node can not start the container", "the words below say why; run the same command again"),
    _row("sandbox", "event", r"^FailedCreatePodSandBox", "passing", 120, "the node can give the pod no network", "look at the cluster's network plugin on that node"),
    _row("memory", "ended", r"^OOMKilled", "config", 0, "the container needed more memory than it may have, and was killed", "raise resources.memory, or lower engine.max_model_len or max_num_seqs"),
)  # fmt: skip
