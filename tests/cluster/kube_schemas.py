"""The schemas of KubeRay and Kubernetes, as strict as their servers: unknown fields are refused.

They aren't ours, so they aren't here. Any folder with them does, named by S2V_SCHEMAS:

  helm pull kuberay/kuberay-operator --version 1.7.0 --untar --untardir DIR
  pip install --no-deps --target DIR kubernetes-validate==1.37.0

(or `kubectl get crd rayjobs.ray.io -o yaml > DIR/rayjobs.yaml` of the cluster that you have)
"""

import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

CORE = {
    "Deployment": "deployment-apps-v1",
    "Service": "service-v1",
    "ConfigMap": "configmap-v1",
    "PodDisruptionBudget": "poddisruptionbudget-policy-v1",
}


def folder() -> Path:
    if not (named := os.environ.get("S2V_SCHEMAS")):
        pytest.skip("S2V_SCHEMAS names no folder with the schemas of KubeRay and Kubernetes: see kube_schemas.py")
    return Path(named)


def objections(document: Mapping[str, Any]) -> list[str]:
    found = ray_schemas() if document["kind"] == "RayJob" else core_schemas(CORE[document["kind"]])
    assert found, f"S2V_SCHEMAS has no schema of {document['kind']}"
    return [
        f"{name}: {error.json_path}: {error.message[:200]}"
        for name, validator in found.items()
        for error in validator.iter_errors(document)
    ]


@cache
def ray_schemas() -> dict[str, jsonschema.Draft202012Validator]:
    return {
        str(path): jsonschema.Draft202012Validator(strict(version["schema"]["openAPIV3Schema"]))
        for path in sorted(folder().rglob("*rayjobs*.yaml"))
        for version in yaml.load(path.read_text(), yaml.CSafeLoader)["spec"]["versions"]
        if version["name"] == "v1"
    }


@cache
def core_schemas(name: str) -> dict[str, jsonschema.Draft202012Validator]:
    return {
        str(path): jsonschema.Draft202012Validator(json.loads(path.read_text()), registry=definitions(path.parent))
        for path in sorted(folder().rglob(f"*-strict/{name}.json"))[-1:]
    }


def definitions(place: Path) -> Registry:
    content = json.loads((place / "_definitions.json").read_text())
    return Registry().with_resource("/api/_definitions.json", Resource.from_contents(content, DRAFT202012))


def strict(schema: Any) -> Any:
    """A CRD's schema as JSON Schema: what isn't named is an error, as with kubectl's strict validation."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = dict(translated(schema))
    if "properties" in made and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    return made


def translated(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in schema.items():
        if key == "properties":
            yield key, {name: strict(part) for name, part in value.items()}
            if schema.get("x-kubernetes-embedded-resource"):
                yield "additionalProperties", True
        elif key in ("items", "additionalProperties", "anyOf", "allOf", "oneOf", "not"):
            yield key, strict(value)
        elif key in ("type", "enum", "minimum", "maximum", "minItems", "maxLength", "minLength", "pattern", "required"):
            yield key, value
