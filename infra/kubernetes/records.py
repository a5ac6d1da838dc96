"""records on a cluster: one ConfigMap per document, whose resource version is the compare; Leases as locks (lease.py).

    ConfigMap record-<owner>-<name>-<hash>     data: owner, name, document (JSON)     label llm-pipeline/owner

Everything is in the cluster itself: whoever reaches it knows what was decided, and two that do never act at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from infra.errors import ConfigError, Conflict, Denied, Transient
from infra.kubernetes import kinds, namespace
from infra.kubernetes.api import Object
from infra.kubernetes.failures import Absent
from infra.kubernetes.lease import Lease
from infra.kubernetes.place import Place
from infra.kubernetes.writes import write
from infra.platform import Record
from infra.waiting import Progress, retry

PART, OWNER = "records", "llm-pipeline/owner"

LIMIT = 1_000_000
"""Bytes of one document: Kubernetes takes 1 MiB for all data of a ConfigMap."""


class KubernetesRecords:
    """`Records` of one cluster's declaration, in its namespace."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def get(self, owner: str, name: str) -> Record | None:
        found = self._find(owner, name)
        return read(found) if found else None

    def put(self, owner: str, name: str, value: Mapping[str, Any], version: int | None) -> Record:
        manifest = self._manifest(owner, name, value)
        try:
            return read(self._write(manifest, "" if version is None else str(version)))
        except (Conflict, Absent) as error:
            found = self.get(owner, name)
            raise Conflict(
                f"record {owner}/{name} was changed by somebody else", why=f"version {found.version if found else None}, expected {version}", next="run the same command again",
            ) from error  # fmt: skip

    def list(self, owner: str, prefix: str = "") -> dict[str, Record]:
        found = {word(item, "name"): item for item in self._all(owner) if word(item, "owner") == owner}
        return {name: read(item) for name, item in sorted(found.items()) if name.startswith(prefix)}

    def owners(self) -> tuple[str, ...]:
        return tuple(sorted({word(item, "owner") for item in self._all()}))

    def at_once(self) -> Seen:
        return Seen(self._place, self._all())

    def delete(self, owner: str, name: str) -> None:
        retry(lambda: self._delete(owner, name), attempts=4, pause=0.1, on=(Conflict,), progress=Progress(30))

    def purge(self, owner: str) -> None:
        """Everything of one owner."""
        for name in self.list(owner):
            self.delete(owner, name)

    @contextlib.contextmanager
    def lock(self, name: str, who: str, progress: Progress) -> Iterator[None]:
        """A Lease that expires without its holder. Raises Timeout or Withdrawn while waiting; Conflict when it was lost."""
        with Lease(self._place, self._object_name("lock", name), name, who).held(progress):
            yield

    # ------------------------------------------------ private

    def _find(self, owner: str, name: str) -> Object | None:
        return self._place.api.get(kinds.CONFIG_MAP, self._object_name("record", owner, name), self._place.namespace)

    def _all(self, owner: str = "") -> tuple[Object, ...]:
        only = f",{OWNER}={label(owner)}" if owner else ""
        return self._place.api.list(kinds.CONFIG_MAP, self._place.namespace, self._place.selector(PART) + only).items

    def _write(self, manifest: Object, version: str) -> Object:
        """A first document makes the namespace where there is none."""
        try:
            return write(self._place.api, manifest, version)
        except (Absent, Denied) as error:
            if version or not namespace.away(self._place, error):
                raise
            namespace.ensure(self._place, Progress(120))
            return write(self._place.api, manifest)

    def _delete(self, owner: str, name: str) -> None:
        if found := self._find(owner, name):
            self._place.api.delete(kinds.CONFIG_MAP, found["metadata"]["name"], self._place.namespace, uid=found["metadata"]["uid"])

    def _manifest(self, owner: str, name: str, value: Mapping[str, Any]) -> Object:
        document = json.dumps(value, sort_keys=True)
        if len(document) > LIMIT:
            raise ConfigError(
                f"record {owner}/{name} has {len(document):,} bytes; a cluster keeps at most {LIMIT:,}", next="take weights of fewer files, or collect the model's history",
            )  # fmt: skip
        meta = self._place.meta(self._object_name("record", owner, name), PART)
        meta["labels"][OWNER] = label(owner)
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": {"owner": owner, "name": name, "document": document}}

    def _object_name(self, kind: str, *words: str) -> str:
        """A name that people recognise; the hash keeps apart what looks alike after sanitising."""
        digest = hashlib.sha256("\0".join((self._place.cluster, *words)).encode()).hexdigest()[:10]
        shown = re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")[:180].strip("-")
        return f"{kind}-{shown}-{digest}" if shown else f"{kind}-{digest}"


class Seen(KubernetesRecords):
    """The records as one list showed them. Writing goes to the cluster, and what it answers is seen from then on."""

    def __init__(self, place: Place, items: Iterable[Object]) -> None:
        super().__init__(place)
        self._items = {item["metadata"]["name"]: item for item in items}

    def put(self, owner: str, name: str, value: Mapping[str, Any], version: int | None) -> Record:
        try:
            return super().put(owner, name, value, version)
        except Conflict:
            self._look_again(owner, name)
            raise

    def _find(self, owner: str, name: str) -> Object | None:
        return self._items.get(self._object_name("record", owner, name))

    def _all(self, owner: str = "") -> tuple[Object, ...]:
        return tuple(item for item in self._items.values() if not owner or item["metadata"]["labels"].get(OWNER) == label(owner))

    def _write(self, manifest: Object, version: str) -> Object:
        made = super()._write(manifest, version)
        self._items[made["metadata"]["name"]] = made
        return made

    def _delete(self, owner: str, name: str) -> None:
        self._look_again(owner, name)
        super()._delete(owner, name)
        self._items.pop(self._object_name("record", owner, name), None)

    def _look_again(self, owner: str, name: str) -> None:
        found = super()._find(owner, name)
        key = self._object_name("record", owner, name)
        self._items = {other: item for other, item in self._items.items() if other != key} | ({key: found} if found else {})


def read(found: Object) -> Record:
    """The document in a ConfigMap; Transient when it can not be read, which is not the same as absent."""
    try:
        value = json.loads(word(found, "document"))
    except ValueError as error:
        raise unreadable(found, str(error)) from error
    if not isinstance(value, dict):
        raise unreadable(found, "it is no JSON object")
    return Record(value, int(found["metadata"]["resourceVersion"]))


def word(found: Object, key: str) -> str:
    """One of the texts in a record's ConfigMap."""
    data = found.get("data") or {}
    if key not in data:
        raise unreadable(found, f"it has no {key}")
    return str(data[key])


def unreadable(found: Object, why: str) -> Transient:
    """Names the ConfigMap, and how to do without it."""
    name, space = found["metadata"]["name"], found["metadata"]["namespace"]
    return Transient(
        f"the record in configmap {name} of namespace {space} can not be read", why=why,
        next=f"look at it; removing it makes the product forget this one decision: kubectl -n {space} delete configmap {name}",
    )  # fmt: skip


def label(owner: str) -> str:
    """The owner as a label's value: itself where Kubernetes takes it, else a hash."""
    return owner if re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", owner) else hashlib.sha256(owner.encode()).hexdigest()[:16]
