"""Reads kustomize folders as far as ours go: resources, components, JSON patches, images, one namespace. No more is let in.

So the overlays can be checked on machines without kubectl; where there is one, a test compares the two.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

Manifest = dict[str, Any]

# The namespace transformer leaves these alone.
_OF_THE_CLUSTER = {"Namespace"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Target(_Strict):
    """What a patch changes: all manifests of this kind, and of this name if there is one."""

    kind: str
    name: str | None = None


class Patch(_Strict):
    """A file of JSON patches (RFC 6902)."""

    path: str
    target: Target


class Image(_Strict):
    """Another name or tag for an image."""

    name: str
    new_name: str | None = Field(None, alias="newName")
    new_tag: str | None = Field(None, alias="newTag")


class Kustomization(_Strict):
    """The fields that our kustomization.yaml files use."""

    api_version: Literal["kustomize.config.k8s.io/v1beta1", "kustomize.config.k8s.io/v1alpha1"] = Field(
        alias="apiVersion"
    )
    kind: Literal["Kustomization", "Component"]
    namespace: str | None = None
    resources: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    patches: tuple[Patch, ...] = ()
    images: tuple[Image, ...] = ()


class Operation(_Strict):
    """One step of a JSON patch."""

    op: Literal["add", "replace"]
    path: str = Field(pattern=r"^(/[^/]+)+$")
    value: Any


def read_kustomization(folder: Path) -> Kustomization:
    """The kustomization of a folder."""
    data = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    return Kustomization.model_validate(data)


def manifests(path: Path) -> list[Manifest]:
    """The manifests of a file."""
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one is not None]


def render(folder: Path, given: list[Manifest] | None = None) -> list[Manifest]:
    """What `kubectl kustomize` makes of a folder; `given` is what a component is added to."""
    wanted = read_kustomization(folder)
    assert (wanted.kind == "Component") == (given is not None), folder
    found = list(given or [])
    for resource in wanted.resources:
        path = folder / resource
        found += render(path) if path.is_dir() else manifests(path)
    for component in wanted.components:
        found = render(folder / component, found)
    for patch in wanted.patches:
        operations = yaml.safe_load((folder / patch.path).read_text(encoding="utf-8"))
        hit = [one for one in found if _is_meant(one, patch.target)]
        assert hit, f"{folder / patch.path} changes nothing"
        for one in hit:
            for operation in operations:
                apply(one, Operation.model_validate(operation))
    for one in found:
        if wanted.namespace and one["kind"] not in _OF_THE_CLUSTER:
            one["metadata"]["namespace"] = wanted.namespace
        for container in containers(one):
            for image in wanted.images:
                name, _, tag = container["image"].partition(":")
                if name == image.name:
                    container["image"] = f"{image.new_name or name}:{image.new_tag or tag}"
    return found


def apply(manifest: Manifest, operation: Operation) -> None:
    """Carry out one step of a JSON patch; what it replaces must be there."""
    *steps, last = [step.replace("~1", "/").replace("~0", "~") for step in operation.path.split("/")[1:]]
    place: Any = manifest
    for step in steps:
        place = place[int(step)] if isinstance(place, list) else place[step]
    value = copy.deepcopy(operation.value)
    if isinstance(place, list):
        assert operation.op == "add", operation
        assert last == "-", operation
        place.append(value)
    else:
        assert operation.op == "add" or last in place, f"{operation.path} is not there to be replaced"
        place[last] = value


def containers(manifest: Manifest) -> list[dict[str, Any]]:
    """The containers that a manifest starts."""
    pod = manifest.get("spec", {}).get("template", {}).get("spec", {})
    return [*pod.get("initContainers", []), *pod.get("containers", [])]


def _is_meant(manifest: Manifest, target: Target) -> bool:
    return manifest["kind"] == target.kind and target.name in (None, manifest["metadata"]["name"])
