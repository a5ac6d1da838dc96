"""Why a release does not serve: the first broken link of its chain, with what the cluster can tell of it. Asked only when something is wrong.

About fifteen small calls at most, and none for a model that serves. A cluster that is away is told of by the first of them, within seconds.
"""

from __future__ import annotations

from dataclasses import replace

from infra import engine
from infra.errors import PipelineError, Problem, Timeout, redact
from infra.kubernetes import chain, evidence, kinds, startup
from infra.kubernetes.chain import Broken, Seen
from infra.kubernetes.namespace import made_by_us
from infra.kubernetes.place import Place, object_name
from infra.kubernetes.router_manifest import model_service
from infra.kubernetes.weights_claim import Claim
from infra.platform import EndpointPart, Release
from infra.specs import ModelSpec
from infra.states import Chain, Route

LONGEST = 2500
"""Characters of evidence: it is kept in a record, and read by people."""

NEXT = {
    chain.CLUSTER: "kubectl get namespace {namespace}; llm-pipeline doctor", chain.NODE: "kubectl --namespace {namespace} describe pod tells why for each node",
    chain.IMAGE: "kubectl --namespace {namespace} describe pod tells how far the pull is", chain.WEIGHTS: "llm-pipeline up {model} fills the claim again",
    chain.RAY: "llm-pipeline logs {model} --part ray", chain.ROUTER: "llm-pipeline up {model}",
    chain.SERVICE: "llm-pipeline up {model}",
}  # fmt: skip
"""Where no known cause says what to do. `{model}` and `{namespace}` are put in."""


class Diagnosis:
    """Of one place."""

    def __init__(self, place: Place, endpoint: EndpointPart) -> None:
        self._place, self._endpoint = place, endpoint

    def chain(self, release: Release, *, live: bool) -> Chain:
        """See `Platform.chain`."""
        seen = look(self._place, release)
        front = chain.ROUTER if self._endpoint.counts else chain.SERVICE
        ask = self._router if self._endpoint.counts else self._service
        broken = chain.first(seen) or (ask(release) if live else None)
        telling = broken and (seen.there or broken.link == chain.CLUSTER)
        problem = told(self._place, release, seen, broken) if broken and telling else None
        return Chain(chain.links(seen, broken, router=live, front=front), problem)

    def away(self, spec: ModelSpec, problem: Problem) -> Chain:
        """See `Platform.away`."""
        nothing = Seen(spec.engine.kind == "ray", None, None, verified=False, main=None, pods=(), events=())
        front = chain.ROUTER if self._endpoint.counts else chain.SERVICE
        return Chain(chain.links(nothing, Broken(chain.CLUSTER, problem.what), router=False, front=front), problem)

    def _router(self, release: Release) -> Broken | None:
        """Whether the router sends the name to this release."""
        try:
            state = self._endpoint.observe(Route(release.model, release.served_name, release.name, ("0.0.0.0", 0)))  # noqa: S104 - nobody is asked there
        except PipelineError as error:
            return Broken(chain.ROUTER, error.problem.what)
        if state and state.healthy and state.release == release.name:
            return None
        pods = self._place.api.list(kinds.POD, self._place.namespace, self._place.selector("endpoint")).items
        words = "it is not there" if state is None else "not all of it is ready" if not state.healthy else f"it sends {release.served_name} to {state.release or 'nobody'}"
        found = chain.cause_of(pods)
        return Broken(chain.ROUTER, words, found, pods)

    def _service(self, release: Release) -> Broken | None:
        """Whether the model's own Service leads to this release, and to nobody else."""
        name = model_service(release.model)
        try:
            state = self._endpoint.observe(Route(release.model, release.served_name, release.name, ("0.0.0.0", 0)))  # noqa: S104 - nobody is asked there
            there = self._place.api.get(kinds.SERVICE, name, self._place.namespace) if state is None else None
        except PipelineError as error:
            return Broken(chain.SERVICE, error.problem.what)
        if state is None:
            words = "is not there" if there is None else "leads to the router still" if made_by_us(self._place, there) else "is somebody else's"
            return Broken(chain.SERVICE, f"the Service {name} {words}")
        if state.release != release.name:
            return Broken(chain.SERVICE, f"the Service {name} leads to {state.release or 'nobody'} for {release.served_name}")
        if state.healthy:
            return None
        pods = evidence.living(self._place, release.name)
        return Broken(chain.SERVICE, f"no pod of {release.name} takes requests behind the Service {name}", chain.cause_of(pods), pods)


def look(place: Place, release: Release) -> Seen:
    """What there is now. Raises Transient when the cluster does not answer."""
    namespace = place.api.glance(kinds.NAMESPACE, place.namespace)
    kind, claims = startup.kind_of(release), Claim(place)
    main, claim = place.api.get(kind, object_name(release), place.namespace), claims.find(release.manifest)
    pods = evidence.living(place, release.name)
    uids = evidence.still(pods) | ({main["metadata"]["uid"], *evidence.makers(place, release.name)} if main and not pods else set())
    uids |= {claim["metadata"]["uid"]} if claim and (claim.get("status") or {}).get("phase") != "Bound" else set()
    return Seen(
        kind is kinds.RAY_SERVICE, namespace, claim, bool(claim and claims.told(claim, release.manifest)), {**main, "kind": kind.name} if main else None, pods,
        evidence.events(place, uids),
    )  # fmt: skip


def told(place: Place, release: Release, seen: Seen, broken: Broken) -> Problem:
    """The four parts. What the engine itself said goes before what Kubernetes says of it."""
    said = evidence.spoken(place, broken.pods) if broken.link in (chain.RAY, chain.APPLICATION, chain.ENGINE, chain.ROUTER, chain.SERVICE) else []
    own = next((found for _, lines in said if (found := engine.cause(lines))), None) if broken.link != chain.ROUTER else None
    known = broken.cause.known if broken.cause else None
    why = known.why if known else own.why if own else broken.words
    following = known.next if known else own.next if own else NEXT.get(broken.link, "llm-pipeline logs {model}")
    rows = [f"{broken.cause.sign.about}: {broken.cause.sign.words}"] if broken.cause else []
    rows += [own.line] if own else []
    log = redact("\n".join([*rows, *evidence.told(seen.events, said)]))[:LONGEST]
    what = redact(f"{release.name} is not up: {broken.link}: {broken.words.splitlines()[0]}")[:300]
    return Problem(what, redact(why), following.replace("{model}", release.model).replace("{namespace}", place.namespace), log or None)


def explained(place: Place, release: Release, error: PipelineError) -> PipelineError:
    """The same error of a start with what the cluster can tell before all of it is taken down; as it was, where it can tell nothing."""
    try:
        seen = look(place, release)
        broken = chain.first(seen)
        found = told(place, release, seen, broken) if broken else None
    except PipelineError:
        return error
    if broken is None or found is None:
        return error
    before, log = error.problem, "\n".join(dict.fromkeys(part for text in (error.problem.log, found.log) if text for part in text.splitlines()))
    problem = replace(before, log=log[:LONGEST] or None, why=f"{before.why}; {found.what}: {found.why}" if isinstance(error, Timeout) else before.why or found.why)
    made = type(error)(problem.what, why=problem.why, next=problem.next, log=problem.log)
    made.__dict__.update({key: value for key, value in error.__dict__.items() if key != "problem"})
    return made

