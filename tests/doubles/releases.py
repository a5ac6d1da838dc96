"""Specs and releases as tests need them: real values, small."""

from __future__ import annotations

from typing import Any

from infra.platform import Release
from infra.specs import ModelSpec
from infra.weights import File, Manifest

MANIFEST = Manifest((File("config.json", 12, "sha256:" + "1" * 64), File("model.safetensors", 4_000, "sha256:" + "2" * 64)))
IMAGE = "local:" + "0" * 16


def spec(**more: Any) -> ModelSpec:
    """A model `demo` on `local`; keywords are keys of the YAML."""
    return ModelSpec.model_validate({"name": "demo", "cluster": "local", "weights": "file://weights", **more})


def release(manifest: Manifest = MANIFEST, image: str = IMAGE, revision: str = "r1", **more: Any) -> Release:
    """A release of that model."""
    return Release(spec(**more), revision, manifest, image, "file:///weights", "/")
