"""The claim that holds one revision: made, found, believed, removed. What was verified is an annotation on it, written last.

    llm-pipeline/verified    the manifest whose every byte was read and found right
    llm-pipeline/told        when, and what the files say of themselves: facts, config.json
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from infra.errors import ConfigError, Conflict
from infra.kubernetes import kinds, nodes
from infra.kubernetes.api import Object
from infra.kubernetes.place import Place
from infra.kubernetes.weights_job import claim, claim_name
from infra.platform import Release
from infra.waiting import Progress
from infra.weights import Facts, Manifest

VERIFIED, TOLD = "llm-pipeline/verified", "llm-pipeline/told"
DEFAULT = "storageclass.kubernetes.io/is-default-class"

ONE_NODE = frozenset({
    "ebs.csi.aws.com", "ebs.csi.eks.amazonaws.com", "kubernetes.io/aws-ebs", "pd.csi.storage.gke.io", "kubernetes.io/gce-pd", "disk.csi.azure.com", "kubernetes.io/azure-disk",
    "cinder.csi.openstack.org", "dobs.csi.digitalocean.com", "csi.hetzner.cloud", "linodebs.csi.linode.com", "rbd.csi.ceph.com", "topolvm.io",
    "rancher.io/local-path", "k8s.io/minikube-hostpath", "docker.io/hostpath", "openebs.io/local", "kubernetes.io/no-provisioner",
})  # fmt: skip
"""Provisioners whose volumes are mounted by one node at a time, by their own documentation."""

SHARED = frozenset({"efs.csi.aws.com", "fsx.csi.aws.com", "filestore.csi.storage.gke.io", "file.csi.azure.com", "nfs.csi.k8s.io", "cephfs.csi.ceph.com", "driver.longhorn.io"})
"""Provisioners whose volumes many nodes mount. Of all others it is not known: the cluster itself is asked, by the claim."""


@dataclass(frozen=True)
class Told:
    """What a pod said of the files when it had read them all. `at`: Unix seconds; `config`: the model's config.json."""

    at: float
    facts: Facts | None
    config: dict[str, Any]
    fetched: int = 0
    seconds: float = 0.0

    def to_json(self) -> str:
        return json.dumps({**vars(self), "facts": vars(self.facts) if self.facts else None})

    @classmethod
    def from_json(cls, text: str) -> Told:
        raw = json.loads(text)
        return cls(**{**raw, "facts": Facts(**raw["facts"]) if raw.get("facts") else None})


class Claim:
    """The claims of one place."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._configs: dict[str, dict[str, Any]] = {}

    def find(self, manifest: Manifest) -> Object | None:
        """The claim, unless it is on its way out."""
        found = self._place.api.get(kinds.CLAIM, claim_name(manifest), self._place.namespace)
        return found if found and not found["metadata"].get("deletionTimestamp") else None

    def ensure(self, release: Release, progress: Progress) -> tuple[str, ...]:
        """Makes it; the nodes that alone may mount it, none: any may. Raises ConfigError when its class does not suit."""
        mode, only = self._mode(release)
        if self.find(release.manifest) is None:
            self._gone(release.manifest, progress)
            self._place.api.apply(claim(self._place, release.manifest, release.model, mode))
        return only

    def told(self, found: Object, manifest: Manifest) -> Told | None:
        """What is known of its files; None: they were not verified, or not these."""
        notes = found["metadata"].get("annotations") or {}
        if notes.get(VERIFIED) != manifest.digest:
            return None
        try:
            return Told.from_json(notes[TOLD])
        except (KeyError, ValueError, TypeError):
            return None

    def config(self, manifest: Manifest) -> dict[str, Any]:
        """The model's config.json, without what is too large to plan with; empty while nobody read it. One manifest has one: it is asked for once."""
        if manifest.digest not in self._configs:
            found = self.find(manifest)
            told = self.told(found, manifest) if found else None
            if told is None:
                return {}
            self._configs[manifest.digest] = dict(told.config)
        return dict(self._configs[manifest.digest])

    def note(self, manifest: Manifest, told: Told | None) -> None:
        """Verified, by what was told; None: not any more."""
        notes = {VERIFIED: manifest.digest if told else None, TOLD: told.to_json() if told else None}
        self._place.api.merge(kinds.CLAIM, claim_name(manifest), self._place.namespace, {"metadata": {"annotations": notes}})

    def delete(self, manifest: Manifest, progress: Progress) -> None:
        """Waits for its absence. Conflict while a pod of somebody's mounts it: Kubernetes would wait for that pod for ever."""
        found = self._place.api.get(kinds.CLAIM, claim_name(manifest), self._place.namespace)
        if found is None:
            return
        if users := self.users(manifest):
            raise Conflict(f"the weights {claim_name(manifest)} are in use", why=f"mounted by {', '.join(users)}", next="take what uses them down first: llm-pipeline status")
        self._place.api.delete(kinds.CLAIM, claim_name(manifest), self._place.namespace, uid=found["metadata"]["uid"])
        self._gone(manifest, progress)

    def users(self, manifest: Manifest) -> tuple[str, ...]:
        """Names of living pods that mount it."""
        pods = self._place.api.list(kinds.POD, self._place.namespace, fields=nodes.LIVING).items
        return tuple(pod["metadata"]["name"] for pod in pods if any(volume.get("persistentVolumeClaim", {}).get("claimName") == claim_name(manifest) for volume in pod["spec"].get("volumes", [])))

    # ------------------------------------------------ private

    def _gone(self, manifest: Manifest, progress: Progress) -> None:
        """Waits until a claim of this name that is on its way out is gone."""
        self._place.api.until(kinds.CLAIM, self._place.namespace, lambda now: True if not now else None, progress, fields=f"metadata.name={claim_name(manifest)}")

    def _mode(self, release: Release) -> tuple[str, tuple[str, ...]]:
        """ReadWriteMany where the class shares. Else ReadWriteOnce, which is right as long as one node runs all that mounts it."""
        found = self._class()
        provisioner = str(found["provisioner"])
        if provisioner in SHARED:
            return "ReadWriteMany", ()
        able = self._candidates(release)
        if len(able) == 1 and not self._place.block.nodepool:
            return "ReadWriteOnce", able
        if provisioner not in ONE_NODE:
            return "ReadWriteMany", ()
        raise ConfigError(
            f"the storage class {found['metadata']['name']} can not hold the weights of {release.model}",
            why=f"its volumes ({provisioner}) are mounted by one node at a time, and {len(able) or 'nodes of a pool'} nodes could run its pods: {', '.join(able[:5])}",
            next="set kubernetes.storage_class to one that shares (NFS, EFS, Filestore, Azure Files, CephFS), or choose one node: kubernetes.node_selector: {kubernetes.io/hostname: NAME}",
        )  # fmt: skip

    def _class(self) -> Object:
        name = self._place.block.storage_class
        classes = self._place.api.list(kinds.STORAGE_CLASS).items
        names = ", ".join(sorted(item["metadata"]["name"] for item in classes)) or "none"
        found = [item for item in classes if (item["metadata"]["name"] == name if name else (item["metadata"].get("annotations") or {}).get(DEFAULT) == "true")]
        if not found:
            what = f"there is no storage class {name}" if name else "the cluster has no default storage class"
            raise ConfigError(what, why=f"it has {names}", next="set kubernetes.storage_class to one of these")
        return found[0]

    def _candidates(self, release: Release) -> tuple[str, ...]:
        """Nodes that could run this release's engine, whatever runs on them now."""
        block = self._place.block
        engine = nodes.Wish({"gpus": float(release.spec.resources.gpu or 0)}, block.node_selector, nodes.borne(block, gpu=release.needs_gpu))
        return tuple(node.name for node in nodes.look(self._place.api, ()) if not nodes.obstacle(node, engine, total=True))


