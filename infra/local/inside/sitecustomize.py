"""Runs at the start of every Python of the image, before the engine: two corrections, each made when its module is imported.

ray.serve._private.replica                               A Serve replica opens `[::]:0` for calls between deployments whatever the
                                                         node's address is, and what it accepts is unpickled: on a laptop that must
                                                         not be reachable from outside. The function that binds it gets loopback.
vllm.distributed.device_communicators.shm_broadcast      A worker polls for its next step for a whole second after the last one. On
                                                         a machine whose CPUs are also the engine that is a core lost to waiting
                                                         (measured: one of two), so it goes to sleep on its socket after a
                                                         millisecond. Only without a GPU. The writer's socket drops a wake-up that
                                                         follows another within about a millisecond (it keeps one, and learns late
                                                         that it was fetched), and upstream nobody would miss it for 5 s; so within
                                                         that first second each sleep is a millisecond long.

Nothing of the installed packages is changed. Standard library only; does nothing in processes that import neither.
"""

import importlib.abc
import importlib.util
import os
import sys
import time


def stay_on_loopback(module):
    """The address that a replica asks for, on loopback."""
    bind = module.add_port_to_grpc_server
    module.add_port_to_grpc_server = lambda server, address: bind(server, address.replace("[::]:", "127.0.0.1:"))


def do_not_spin(module):
    """Seconds of polling before a reader sleeps: a millisecond for the constructor's one second; then short sleeps, until that second is over."""
    condition = module.SpinCondition
    if os.environ.get("LLM_PIPELINE_ENGINE_ON") != "cpu" or condition.__init__.__defaults__ != (1,):
        return
    condition.__init__.__defaults__ = (0.001,)
    sleep = condition.wait

    def wait(self, timeout_ms=None):
        busy = time.monotonic() - self.last_read < 1
        return sleep(self, 1 if busy and (timeout_ms is None or timeout_ms > 1) else timeout_ms)

    condition.wait = wait


CORRECTIONS = {"ray.serve._private.replica": stay_on_loopback, "vllm.distributed.device_communicators.shm_broadcast": do_not_spin}


class Corrections(importlib.abc.MetaPathFinder):
    """Finds a module as everybody does, and corrects it as soon as it is loaded."""

    def find_spec(self, name, path=None, target=None):
        correct = CORRECTIONS.pop(name, None)
        if correct is None:
            return None
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            correct(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Corrections())
