"""A Kubernetes API server on loopback that is only asked: reads of scripted objects, and the two reviews of what we may. Strict: whoever tries to change anything is told no, and kept.

Answers follow the server's documented behaviour: Status objects for refusals, lists with a resourceVersion, 401 without the token, 403 for what `denied` names, label and field
selectors. What it does not know is answered with 404, or 400 for a selector, and kept in `unexpected`.

    with ApiServer(folder) as server:
        server.put(NODE, {"metadata": {"name": "a"}, "spec": {}, "status": {}})
        Api.open(str(server.kubeconfig), "scripted")
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from infra.kubernetes import kinds
from infra.kubernetes.kinds import Kind
from tests.doubles.loopback import Handler, Served

TOKEN = "the-token-of-the-double"
REVIEWS = {kinds.REVIEW.path(): "review", kinds.RULES.path(): "rules"}
PATH = re.compile(r"(?P<root>/api/v1|/apis/[^/]+/[^/]+)(?:/namespaces/(?P<space>[^/]+)(?=/))?/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?")


class ApiServer(Served):
    """The double.

    denied      what we may not, as `verb plural`; `*` all of it
    deaf        it takes connections and answers nothing
    written     every request that would have changed something
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(_Handler)
        self.objects: dict[Kind, list[dict[str, Any]]] = {}
        self.version, self.denied, self.deaf = "v1.35.4", set[str](), False
        self.requests: list[str] = []
        self.written: list[str] = []
        self.kubeconfig = folder / "scripted.yaml"
        self.kubeconfig.write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "clusters": [{"name": "c", "cluster": {"server": self.url}}], "users": [{"name": "u", "user": {"token": TOKEN}}],
            "contexts": [{"name": "scripted", "context": {"cluster": "c", "user": "u"}}],
        }))  # fmt: skip
        self.put(kinds.NAMESPACE, {"metadata": {"name": "kube-system", "uid": "0b8b0a2e-5b3f-4f6f-8b1e-2f6d2a2f7a11"}})

    def put(self, kind: Kind, item: dict[str, Any]) -> None:
        """An object that is there; one of the same name and namespace goes."""
        meta = item["metadata"] = {"uid": f"uid-{item['metadata']['name']}", **item["metadata"]}
        kept = [one for one in self.objects.get(kind, []) if (one["metadata"]["name"], one["metadata"].get("namespace")) != (meta["name"], meta.get("namespace"))]
        self.objects[kind] = [*kept, item]

    def may(self, verb: str, plural: str) -> bool:
        return not {f"{verb} {plural}", "*"} & self.denied


class _Handler(Handler[ApiServer]):
    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        self.double.requests.append(f"{self.command} {url.path}")
        if self.double.deaf:
            self.double.closing.wait()
            self.close_connection = True
            return None
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "Unauthorized")
        if self.command == "POST" and (review := REVIEWS.get(url.path)):
            return self._review(review, json.loads(body)["spec"])
        if self.command != "GET":
            self.double.written.append(f"{self.command} {self.path}")
            return self._refuse(405, "nobody writes here")
        if url.path == "/version":
            return self._send(200, {"gitVersion": self.double.version})
        return self._read(url.path, {name: values[0] for name, values in parse_qs(url.query).items()})

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any

    def _review(self, which: str, spec: Mapping[str, Any]) -> None:
        """Nothing is listed: whoever wants to know asks for each, as on servers whose authorizer can not list."""
        if which == "rules":
            return self._send(201, {"status": {"resourceRules": [], "nonResourceRules": [], "incomplete": True}})
        asked = spec["resourceAttributes"]
        allowed = asked["verb"] != "*" and self.double.may(asked["verb"], asked["resource"])
        return self._send(201, {"status": {"allowed": allowed}})

    def _read(self, path: str, query: Mapping[str, str]) -> None:
        match = PATH.fullmatch(path)
        kind = next((one for one in kinds.KINDS.values() if match and (one.root, one.plural) == (match["root"], match["plural"])), None)
        if match is None or kind is None:
            self.double.unexpected.append(path)
            return self._refuse(404, "the server could not find the requested resource")
        verb = "get" if match["name"] else "list"
        if not self.double.may(verb, kind.plural):
            return self._refuse(403, f'{kind.plural} is forbidden: User "u" cannot {verb} resource "{kind.plural}"')
        found = [one for one in self.double.objects.get(kind, []) if not match["space"] or one["metadata"].get("namespace") == match["space"]]
        if match["name"]:
            one = next((one for one in found if one["metadata"]["name"] == match["name"]), None)
            return self._send(200, {"apiVersion": kind.api_version, "kind": kind.name, **one}) if one else self._refuse(404, f'{kind.plural} "{match["name"]}" not found')
        chosen = [one for one in found if all(self._selected(one, *pair) for pair in _pairs(query))]
        return self._send(200, {"kind": f"{kind.name}List", "metadata": {"resourceVersion": "1"}, "items": chosen})

    def _selected(self, item: Mapping[str, Any], key: str, words: tuple[str, ...]) -> bool:
        """By a label, which is to be one of these words; or by the phase, which is to be none of them."""
        if key == "status.phase":
            return (item.get("status") or {}).get("phase") not in words
        return (item["metadata"].get("labels") or {}).get(key) in words

    def _refuse(self, status: int, message: str) -> None:
        self._send(status, {"apiVersion": "v1", "kind": "Status", "status": "Failure", "code": status, "message": message})

    def _send(self, status: int, body: Mapping[str, Any]) -> None:
        self.send(status, json.dumps(body).encode(), {"Content-Type": "application/json"})


def _pairs(query: Mapping[str, str]) -> list[tuple[str, tuple[str, ...]]]:
    """Each requirement of the selectors: its key, and the words that it names."""
    out = []
    for one in re.split(r",(?![^(]*\))", query.get("labelSelector", "") or ""):
        if found := re.fullmatch(r"(\S+) in \((.+)\)|([^=!\s]+)=([^=]+)", one.strip()):
            out.append((found[1] or found[3], tuple((found[2] or found[4]).split(","))))
    phases = re.findall(r"status\.phase!=(\w+)", query.get("fieldSelector", "") or "")
    return [*out, *([("status.phase", tuple(phases))] if phases else [])]
