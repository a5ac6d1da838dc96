"""One table on its way to every router: who has it, who is waited for, and why none comes up."""

from __future__ import annotations

import time
from collections.abc import Sequence

from infra.errors import Denied, PipelineError
from infra.kubernetes import causes, kinds
from infra.kubernetes.api import Object
from infra.kubernetes.place import Place
from infra.kubernetes.router_pods import RouterPod, RouterPods, pod_of
from infra.router import Table
from infra.waiting import Progress

LATE_SECONDS = 15
"""A router that was started and does not answer is waited for so long: it may have read an older table. One that is ready, always."""


class Push:
    """`ready`: one pod at least has to be; else it is enough that those which run have the table."""

    def __init__(self, place: Place, pods: RouterPods, table: Table, *, ready: bool) -> None:
        self._place, self._pods, self._table, self._ready = place, pods, table, ready
        self._told: dict[str, bool] = {}
        self._seen: dict[str, float] = {}

    def everywhere(self, progress: Progress) -> bool:
        """Every pod that runs has the table in force; True: one did not have it before.

        One that is ready and can not be asked is waited for, until it is in no Service any more. Raises what keeps all of them from starting.
        """
        self._place.api.until(kinds.POD, self._place.namespace, lambda found: self._look(found, progress), progress, labels=self._place.selector("endpoint"))
        return any(self._told.values())

    def _look(self, found: Sequence[Object], progress: Progress) -> bool | None:
        here = [pod for pod in map(pod_of, found) if not pod.leaving]
        refused = [self._tell(pod, progress) for pod in here if pod.running and pod.uid not in self._told]
        ready = sum(pod.ready for pod in here)
        if not any(refused):
            progress.phase("router", f"{ready} of {len(here)} ready")
        if any(self._waits_for(pod) for pod in here):
            return None
        if self._ready and not ready:
            self._insist_on_hope(found)
            return None
        return True

    def _tell(self, pod: RouterPod, progress: Progress) -> bool:
        """False: it has the table. True: it starts, it hangs, or it has another token and is about to be replaced."""
        self._since(pod.uid)
        try:
            self._told[pod.uid] = self._pods.tell(pod, self._table)
        except Denied:
            raise
        except PipelineError as error:
            progress.phase("router", f"{pod.name}: {error.problem.what}")
            return True
        return False

    def _waits_for(self, pod: RouterPod) -> bool:
        return pod.uid not in self._told and (pod.ready or (pod.running and self._since(pod.uid) < LATE_SECONDS))

    def _insist_on_hope(self, found: Sequence[Object]) -> None:
        signs = [sign for pod in found for sign in causes.of_pod(pod)]
        for cause in causes.causes(signs):
            if self._since(f"{cause.known.name} {cause.sign.about}") >= cause.known.patience:
                raise cause.error(f"the router did not start: {cause.sign.reason or cause.known.name}")

    def _since(self, what: str) -> float:
        """Seconds since this was first seen."""
        return time.monotonic() - self._seen.setdefault(what, time.monotonic())
