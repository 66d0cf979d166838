"""What KubeRay, Kubernetes and kubectl say, in plain words."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from cluster.job import Condition, State
from dataset.errors import RunError

WAITS = {  # KubeRay's jobDeploymentStatus -> why it waits
    "": "KubeRay hasn't looked at it yet: is its operator up?",
    "Initializing": "its cluster starts",
    "Waiting": "its cluster starts",
    "Retrying": "it begins again with a new cluster",
    "Suspending": "it is suspended",
    "Suspended": "it is suspended",
}
KUBERAY = "helm install kuberay-operator kuberay/kuberay-operator --version 1.7.0"
REFUSALS = (  # a pattern in what kubectl says -> what it means, and the remedy
    (
        r'no matches for kind "?RayJob|resource type "rayjobs',
        f"KubeRay isn't installed in the cluster. Who administers it does: `{KUBERAY}`.",
    ),
    (
        r"unknown field",
        f"the cluster's KubeRay is older than what is sent; 1.5.1 or newer is needed: `{KUBERAY}`, and its CRDs.",
    ),
    (
        r"exceeded quota|must specify limits",
        "it is more than the namespace's quota gives: `kubectl describe quota`. Ask for less (counts, cpus, memory and "
        "gpus of kuberay.head, cpu, gpu), or let others end.",
    ),
    (
        r"pods/exec",
        "ending a job that runs takes the right to create pods/exec. Without it, "
        "`kubectl delete rayjob` ends it at once; training loses what it did since its last checkpoint.",
    ),
    (r"violates PodSecurity", "the namespace's security level doesn't let such pods in: ask who administers it."),
    (
        r"Forbidden|forbidden",
        "you may not do that there. Ask for the rights to rayjobs.ray.io, configmaps, deployments, services, "
        "poddisruptionbudgets, pods and their logs, or set kuberay.namespace or kuberay.context.",
    ),
    (r"namespaces .* not found", "make the namespace, or set kuberay.namespace."),
    (r"context .* does not exist|no context exists", "`kubectl config get-contexts` lists them: set kuberay.context."),
    (r"Unauthorized|provide credentials|token.*expired", "log in to the cluster again."),
    (
        r"connection to the server|[Uu]nable to connect|couldn't get current server|dial tcp|i/o timeout|no such host",
        "the cluster doesn't answer. Is it up, and reachable from here? kuberay.context says which; see "
        "`kubectl cluster-info`.",
    ),
    (r"current-context|no configuration has been provided", "kubectl knows no cluster here: set KUBECONFIG."),
)
STUCK = r"Back[oO]ff|^ErrImage|^InvalidImage|^Image|^Create|^Run"  # reasons of a container that waits
PULLING = r"^ErrImage|^InvalidImage|^Image"


class Taken(RunError):
    """There is something of that name."""


class NothingYet(RunError):
    """No log, because nothing has begun."""


def refusal(told: str) -> RunError:
    """kubectl's error, with what it means where we know it."""
    lines = [line for line in told.splitlines() if line.strip()] or ["no reason given"]
    said = next((line for line in lines if re.match(r"[Ee]rror|Unable|The connection", line)), lines[-1])
    said = re.sub(r'^[Ee]rror( from server \(\w+\))?: |error when creating "STDIN": ', "", said).rstrip(".")
    if "(AlreadyExists)" in told or "already exists" in told:
        return Taken(f"kubectl: {said}.")
    if re.search(
        r'waiting to start|timed out waiting for the condition|(jobs\.batch|deployments\.apps) "[^"]*" not found', told
    ):
        return NothingYet(f"kubectl: {said}.")
    meaning = next((words for pattern, words in REFUSALS if re.search(pattern, told)), "")
    return RunError(f"kubectl: {said.rstrip('?')}{': ' if meaning else '.'}{meaning}")


def job(found: Mapping[str, Any]) -> Condition:
    """Of a RayJob."""
    status = found.get("status") or {}
    deployment, ray = status.get("jobDeploymentStatus", ""), status.get("jobStatus", "")
    told = last_line(status.get("message", ""))
    if deployment == "Complete":
        return Condition(State.STOPPED if ray == "STOPPED" else State.SUCCEEDED)
    if deployment in ("Failed", "ValidationFailed"):
        return Condition(State.FAILED, ": ".join(filter(None, (status.get("reason", ""), told))))
    cluster = status.get("rayClusterStatus") or {}
    again = f"begun again {status['failed']} times" if status.get("failed") else ""
    if deployment == "Running" and ray not in ("", "PENDING"):
        ready, wanted = cluster.get("readyWorkerReplicas", 0), cluster.get("desiredWorkerReplicas", 0)
        return Condition(State.RUNNING, ", ".join(filter(None, (f"on {ready} of {wanted} workers", again))))
    failure = next((c["message"] for c in cluster.get("conditions", ()) if c["type"] == "ReplicaFailure"), "")
    waits = WAITS.get(deployment, "Ray takes it up")
    return Condition(State.WAITING, "; ".join(filter(None, (waits, again, failure))))


def server(found: Mapping[str, Any]) -> Condition:
    """Of a Deployment."""
    wanted, status = found["spec"]["replicas"], found.get("status") or {}
    ready = status.get("readyReplicas", 0)
    if ready:
        return Condition(State.RUNNING, f"{ready} of {wanted} servers are ready")
    failure = next((c["message"] for c in status.get("conditions", ()) if c["type"] == "ReplicaFailure"), "")
    return Condition(State.WAITING, failure or f"none of {wanted} servers is ready")


def trouble(pods: Iterable[Mapping[str, Any]]) -> str:
    """Why pods don't start: the most frequent reason, and for how many."""
    reasons = [reason for pod in pods if (reason := stuck(pod.get("status") or {}))]
    if not reasons:
        return ""
    worst = max(reasons, key=reasons.count)
    return f"{reasons.count(worst)} of its pods: {worst}"


def stuck(status: Mapping[str, Any]) -> str:
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("message", "no node takes it")
    for container in (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())):
        waiting = container.get("state", {}).get("waiting", {})
        if re.search(STUCK, reason := waiting.get("reason", "")):
            remedy = (
                " (is it pushed, and do kuberay.pull_secrets let it be pulled?)" if re.search(PULLING, reason) else ""
            )
            return f"{reason}: {last_line(waiting.get('message', ''))}{remedy}"
    return ""


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
