"""Runs at the start of every Python of the image: keeps Serve's internal gRPC server on loopback.

A Serve replica opens `[::]:0` for calls between deployments whatever the node's address is, and what it accepts is unpickled:
on a laptop that must not be reachable from outside. Replacing the one function that binds it, when its module is imported,
needs no change of the installed package. Standard library only; does nothing in processes that don't import Serve.
"""

import importlib.abc
import importlib.util
import sys

TARGET = "ray.serve._private.replica"


class Loopback(importlib.abc.MetaPathFinder):
    """Wraps `add_port_to_grpc_server` of the target as soon as it is loaded."""

    def find_spec(self, name, path=None, target=None):
        if name != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            bind = module.add_port_to_grpc_server
            module.add_port_to_grpc_server = lambda server, address: bind(server, address.replace("[::]:", "127.0.0.1:"))

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Loopback())
