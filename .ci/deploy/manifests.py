"""Checks rendered Kubernetes manifests: the API's own schemas, and that what they name is there.

    kubectl kustomize FOLDER | python manifests.py FOLDER SECRETS.yaml

Ends with an error that lists all faults.
"""

import sys
from pathlib import Path

import kubernetes_validate
import yaml

VERSION = "1.33"
# Made by hand, as the files that name them say.
BY_HAND = {("Secret", "ragway-tls"), ("Secret", "ragway-postgres"), ("ConfigMap", "catalog")}


def main(name: str, secrets: Path) -> None:
    rendered = list(yaml.safe_load_all(sys.stdin))
    made = list(yaml.safe_load_all(secrets.read_text()))
    faults = [fault for resource in rendered + made for fault in against_schema(resource)]
    assert rendered, f"{name}: nothing was rendered"
    there = {(resource["kind"], resource["metadata"]["name"]) for resource in rendered + made} | BY_HAND
    for resource in rendered:
        for kind, wanted in named(resource):
            if (kind, wanted) not in there:
                faults.append(f"{of(resource)} names {kind} {wanted}, which is not there")
    faults += unselected(rendered)
    if faults:
        raise SystemExit(f"{name}:\n" + "\n".join(faults))
    print(f"ok  {name}: {len(rendered)} resources")


def against_schema(resource: dict) -> list[str]:
    try:
        kubernetes_validate.validate(resource, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        path = ".".join(map(str, error.path))
        return [f"{of(resource)}: {path}: {error.message}"]
    return []


def named(resource: dict):
    """Kind and name of everything that a resource refers to."""
    if resource["kind"] == "HorizontalPodAutoscaler":
        target = resource["spec"]["scaleTargetRef"]
        yield target["kind"], target["name"]
    for node in nodes(resource.get("spec")):
        for key, kind, name in (
            ("configMapRef", "ConfigMap", "name"), ("configMap", "ConfigMap", "name"),
            ("secretRef", "Secret", "name"), ("secretKeyRef", "Secret", "name"), ("secret", "Secret", "name"),
            ("persistentVolumeClaim", "PersistentVolumeClaim", "claimName"), ("service", "Service", "name"),
        ):
            value = node.get(key)
            if isinstance(value, dict) and name in value:
                yield kind, value[name]
        if "secretName" in node:
            yield "Secret", node["secretName"]
    for key, value in (resource["metadata"].get("annotations") or {}).items():
        if key.endswith("/auth-secret"):
            yield "Secret", value


def unselected(rendered: list[dict]) -> list[str]:
    """Selectors that no pod has the labels for, and ports and networks' rules that name none."""
    pods = [pod_template(resource) for resource in rendered if pod_template(resource)]
    faults = []
    for resource in rendered:
        spec = resource.get("spec") or {}
        selector = spec.get("podSelector", spec.get("selector"))
        if not selector:
            continue
        labels = selector.get("matchLabels", {}) if "matchLabels" in selector or resource["kind"] != "Service" else selector
        chosen = [pod for pod in pods if labels.items() <= pod["metadata"]["labels"].items()]
        if not chosen:
            faults.append(f"{of(resource)} selects {labels}, which no pod has")
        if resource["kind"] in ("Deployment", "StatefulSet") and len(chosen) != 1:
            faults.append(f"{of(resource)} selects the pods of {len(chosen)} sets")
        if resource["kind"] == "Service":
            ports = {port["name"] for pod in chosen for box in pod["spec"]["containers"] for port in box.get("ports", [])}
            faults += [
                f"{of(resource)}: no container has a port {port['targetPort']}"
                for port in spec["ports"] if port["targetPort"] not in ports
            ]
    return faults


def pod_template(resource: dict) -> dict | None:
    spec = resource.get("spec") or {}
    return spec.get("jobTemplate", {"spec": spec})["spec"].get("template")


def nodes(value: object):
    """Every mapping inside."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(inner)


def of(resource: dict) -> str:
    return f"{resource['kind']} {resource['metadata']['name']}"


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
