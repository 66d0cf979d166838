"""KubeRay: what is sent, and what the operator is told. A stand-in for kubectl answers as the real one does."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.job import MOST_ATTACHED, Job, State
from cluster.kuberay import KubeRayJobs
from cluster.settings import Cluster, changed
from dataset.errors import RunError, UsageError
from tests.cluster.kube_schemas import objections

GOLDEN = Path(__file__).with_name("golden")
KINDS = ("curate", "train", "caption-server")
SETTINGS = Cluster.model_validate(
    {
        "images": {"curation": "r/curation:1", "trainer": "r/trainer:1", "caption_server": "r/captions:1"},
        "kuberay": {
            "namespace": "video",
            "service_account": "s2v",
            "pull_secrets": ["registry"],
            "secrets": ["store", "hub"],
            "env": {"HF_HOME": "/data/hf"},
            "volumes": [{"claim": "datasets", "path": "/data"}],
            "gpu": {
                "count": 0,
                "most": 4,
                "cpus": 16,
                "gpus": 1,
                "memory": "128Gi",
                "spot": True,
                "node_selector": {"gpu": "h100"},
            },
        },
        "training": {"nodes": 4, "least": 3},
        "caption": {"replicas": 3},
    }
)
SERVE = ("caption", "serve", "--model", "Qwen/Qwen2.5-VL-72B-Instruct", "--gpus", "8", "--gpu", "h100-80")


def with_(*changes: str) -> KubeRayJobs:
    cluster = SETTINGS
    for change in changes:
        cluster = changed(cluster, change)
    return KubeRayJobs(cluster)


@pytest.fixture
def jobs(tmp_path: Path) -> dict[str, Job]:
    recipe, table = tmp_path / "mine.yaml", tmp_path / "list.parquet"
    recipe.write_text("name: mine\n# {{ 1 }}: '\"\n")
    table.write_bytes(b"PAR1\xff\x00")
    curate = ("curate", str(table), "s3://raw/*.mp4", "/data/two words", "--out", "s3://b/x", f"--recipe={recipe}")
    train = ("train", "--stage", "film-speech", "--data", "film=/data/latents", "--out", "/data/run")
    return {
        "curate": Job("curate", "curate-x-1f3a", curate, "s3://b/x", (recipe, table)),
        "train": Job("train", "train-run-2b4c", train, "/data/run"),
        "caption-server": Job("caption-server", "captions", (*SERVE, "--host", "0.0.0.0", "--port", "8000")),
        "preflight": Job("preflight", "preflight", ("preflight", "--recipe", "embedded")),
    }


def documents(text: str) -> dict[str, Any]:
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def pod_specs(document: Any) -> Iterator[dict[str, Any]]:
    if isinstance(document, dict):
        if "containers" in document:
            yield document
        for value in document.values():
            yield from pod_specs(value)
    elif isinstance(document, list):
        for value in document:
            yield from pod_specs(value)


# ---------------------------------------------------------------- what is sent


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_sent_is_what_it_was(kind: str, jobs: dict[str, Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.kuberay.version", lambda package: "2.60.0")
    assert with_().render(jobs[kind]) == (GOLDEN / f"kuberay-{kind}.yaml").read_text()


@pytest.mark.parametrize("kind", [*KINDS, "preflight"])
def test_the_servers_schemas_take_it(kind: str, jobs: dict[str, Job]) -> None:
    changes = ("kuberay.cpu.spot=true", "kuberay.gpu.spot=false", "kuberay.volumes=[{claim: d, path: /data}]")
    for backend in (with_(), with_(*changes)):
        for document in yaml.safe_load_all(backend.render(jobs[kind])):
            assert objections(document) == []


def test_a_wrong_field_would_be_found(jobs: dict[str, Job]) -> None:
    document = documents(with_().render(jobs["curate"]))["RayJob"]
    document["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["evn"] = []
    assert any("evn" in objection for objection in objections(document))
    service = documents(with_().render(jobs["caption-server"]))["Service"]
    service["spec"]["port"] = 1
    assert objections(service)


@pytest.mark.parametrize("kind", [*KINDS, "preflight"])
def test_every_pod_is_unprivileged_and_sees_secrets_and_volumes(kind: str, jobs: dict[str, Job]) -> None:
    specs = [spec for document in documents(with_().render(jobs[kind])).values() for spec in pod_specs(document)]
    assert specs
    for spec in specs:
        (container,) = spec["containers"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["securityContext"]["runAsUser"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert spec["imagePullSecrets"] == [{"name": "registry"}]
        assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]
        if container["name"] == "submitter":
            continue
        mounts, volumes = container["volumeMounts"], spec["volumes"]
        assert [mount["name"] for mount in mounts] == [volume["name"] for volume in volumes]
        assert {"/dev/shm", "/data"} <= {mount["mountPath"] for mount in mounts}
        assert [source["secretRef"]["name"] for source in container["envFrom"]] == ["store", "hub"]


def test_no_work_goes_to_the_head_and_the_head_to_no_spot_node(jobs: dict[str, Job]) -> None:
    spec = documents(with_().render(jobs["curate"]))["RayJob"]["spec"]["rayClusterSpec"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    head, (cpu, gpu) = spec["headGroupSpec"]["template"]["spec"], spec["workerGroupSpecs"]
    rules = head["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    keys = {rule["key"] for rule in rules[0]["matchExpressions"] if rule["operator"] == "NotIn"}
    assert keys >= {"karpenter.sh/capacity-type"}
    assert keys < {toleration["key"] for toleration in gpu["template"]["spec"]["tolerations"]}
    assert "tolerations" not in head
    assert (cpu["replicas"], cpu["minReplicas"], cpu["maxReplicas"]) == (2, 2, 8)
    assert gpu["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert spec["enableInTreeAutoscaling"]
    with pytest.raises(UsageError, match=r"head\.spot"):
        with_("kuberay.head.spot=true").render(jobs["curate"])


def test_groups_without_nodes_are_left_out_and_a_fixed_cluster_has_no_autoscaler(jobs: dict[str, Job]) -> None:
    fixed = with_("kuberay.gpu.most=0", "kuberay.cpu.most=0")
    spec = documents(fixed.render(jobs["curate"]))["RayJob"]["spec"]["rayClusterSpec"]
    assert [group["groupName"] for group in spec["workerGroupSpecs"]] == ["cpu"]
    assert "enableInTreeAutoscaling" not in spec
    with pytest.raises(UsageError, match="no nodes"):
        with_("kuberay.gpu.most=0", "kuberay.cpu.most=0", "kuberay.cpu.count=0").render(jobs["curate"])


def test_training_gets_its_nodes_and_time_to_save(jobs: dict[str, Job]) -> None:
    spec = documents(with_("kuberay.keep_seconds=0").render(jobs["train"]))["RayJob"]["spec"]
    (group,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["replicas"], group["maxReplicas"], group["rayStartParams"]["num-gpus"]) == (4, 4, "8")
    assert spec["entrypoint"] == (
        "python -m cluster.torchrun_on_ray --nodes 3:4 --gpus-per-node 8 --restarts 10 -- --stage film-speech "
        "--data film=/data/latents --out /data/run"
    )
    (container,) = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    wait = int(next(v["value"] for v in container["env"] if v["name"] == "RAY_JOB_STOP_WAIT_TIME_S"))
    assert spec["ttlSecondsAfterFinished"] >= wait > 60
    without_gpus = documents(with_("training.gpus_per_node=0").render(jobs["train"]))["RayJob"]["spec"]
    assert [group["groupName"] for group in without_gpus["rayClusterSpec"]["workerGroupSpecs"]] == ["cpu"]


def test_files_travel_as_they_are(jobs: dict[str, Job]) -> None:
    files = documents(with_().render(jobs["curate"]))["ConfigMap"]
    assert files["data"] == {"mine.yaml": jobs["curate"].files[0].read_text()}
    assert files["binaryData"] == {"list.parquet": "UEFSMf8A"}
    assert "ConfigMap" not in documents(with_().render(jobs["train"]))


@pytest.mark.parametrize(
    ("change", "kind", "told"),
    [
        ("images.curation=''", "curate", r"images\.curation.*containers/curation\.Dockerfile"),
        ("images.trainer=''", "train", r"images\.trainer.*containers/trainer\.Dockerfile"),
        ("images.caption_server=''", "caption-server", r"containers/caption-server\.Dockerfile"),
        ("kuberay.volumes=[]", "curate", r"/data/two words: pods don't see.*kuberay\.volumes"),
        ("kuberay.volumes=[{claim: d, path: /dat}]", "train", "/data/latents: pods don't see"),
        ("training.least=5", "train", r"training\.least"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_sent(
    change: str, kind: str, told: str, jobs: dict[str, Job]
) -> None:
    with pytest.raises(UsageError, match=told):
        with_(change).render(jobs[kind])


def test_too_large_or_oddly_named_files_are_refused(tmp_path: Path) -> None:
    large, odd = tmp_path / "list.csv", tmp_path / "täglich 1.csv"
    large.write_bytes(b"x" * (MOST_ATTACHED + 1))
    odd.touch()
    for path, told in ((large, "700,000 at most travel"), (odd, "rename it")):
        with pytest.raises(UsageError, match=told):
            with_().render(Job("curate", "a", ("curate", str(path), "--out", "s3://b/x"), "s3://b/x", (path,)))


# ---------------------------------------------------------------- what is done

KUBECTL = """#!{python}
import json, pathlib, re, sys
here = pathlib.Path(__file__).parent
words = " ".join(sys.argv[1:])
with (here / "calls").open("a") as calls:
    calls.write(json.dumps([words, sys.stdin.read() if "--filename=-" in words else ""]) + "\\n")
for pattern, out, told, code in json.loads((here / "answers").read_text()):
    if re.search(pattern, words):
        print(out, end="")
        print(told, end="", file=sys.stderr)
        sys.exit(code)
"""


class Kubectl:
    """What it is asked and answers: patterns of its words; the first one that fits."""

    def __init__(self, folder: Path):
        self.folder, self.answers = folder, []
        (folder / "kubectl").write_text(KUBECTL.replace("{python}", sys.executable))
        (folder / "kubectl").chmod(0o755)
        self.save()

    def save(self) -> None:
        (self.folder / "answers").write_text(json.dumps(self.answers))

    def answer(self, pattern: str, out: str | dict[str, Any] = "", told: str = "", code: int | None = None) -> None:
        text = out if isinstance(out, str) else json.dumps(out)
        self.answers.append((pattern, text, told, int(bool(told)) if code is None else code))
        self.save()

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kubectl:
    (folder := tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return Kubectl(folder)


def ray_job(deployment: str, ray: str = "", **more: Any) -> dict[str, Any]:
    cluster = {"readyWorkerReplicas": 3, "desiredWorkerReplicas": 4}
    status = {"jobDeploymentStatus": deployment, "jobStatus": ray, "rayClusterStatus": cluster, "jobId": "x-9k2"}
    return {"kind": "RayJob", "status": status | {"rayClusterName": "x-qwert"} | more}


def test_a_job_is_created_as_printed(jobs: dict[str, Job], kubectl: Kubectl) -> None:
    backend = with_("kuberay.context=lab")
    assert backend.submit(jobs["curate"]) == "rayjob/curate-x-1f3a"
    *_, (words, sent) = kubectl.calls
    assert words == "--context=lab --namespace=video create --filename=-"
    assert sent == backend.render(jobs["curate"])


def test_an_ended_job_is_replaced_and_a_running_one_is_a_clash(jobs: dict[str, Job], kubectl: Kubectl) -> None:
    kubectl.answer("get rayjobs.ray.io/curate-x-1f3a", ray_job("Running", "RUNNING"))
    with pytest.raises(RunError, match=r"curate-x-1f3a is there already.*--stop.*--name"):
        with_().submit(jobs["curate"])
    assert len(kubectl.calls) == 1
    kubectl.answers.clear()
    kubectl.answer("get rayjobs.ray.io/curate-x-1f3a", ray_job("Failed", "FAILED", reason="AppFailed"))
    with_().submit(jobs["curate"])
    done = [words.split()[1] for words, _ in kubectl.calls[1:]]
    assert done == ["get", "delete", "create"]


CREATING = 'error when creating "STDIN": '


@pytest.mark.parametrize(
    ("pattern", "told", "sentence"),
    [
        (
            "get rayjobs",
            'error: the server doesn\'t have a resource type "rayjobs"\n',
            "KubeRay isn't installed.*helm install kuberay-operator",
        ),
        (
            "create",
            'error: resource mapping not found for name: "x" namespace: "video" from "STDIN": no matches for kind '
            '"RayJob" in version "ray.io/v1"\nensure CRDs are installed first\n',
            "KubeRay isn't installed.*helm install kuberay-operator",
        ),
        (
            "create",
            f'Error from server (BadRequest): {CREATING}RayJob in version "v1" cannot be handled as a RayJob: strict '
            'decoding error: unknown field "spec.rayClusterSpec.authOptions"\n',
            r"older than what is sent; 1\.5\.1",
        ),
        (
            "create",
            f'Error from server (Forbidden): {CREATING}rayjobs.ray.io is forbidden: User "ann" cannot create resource '
            '"rayjobs" in API group "ray.io" in the namespace "video"\n',
            r'User "ann" cannot create.*Ask for the rights',
        ),
        (
            "create",
            f'Error from server (Forbidden): {CREATING}rayjobs.ray.io "x" is forbidden: exceeded quota: team, '
            "requested: count/rayjobs.ray.io=1, used: count/rayjobs.ray.io=5, limited: count/rayjobs.ray.io=5\n",
            "exceeded quota: team.*kubectl describe quota",
        ),
        (
            "get",
            "The connection to the server 10.0.0.1:6443 was refused - did you specify the right host or port?\n",
            "10.0.0.1:6443 was refused.*the cluster doesn't answer",
        ),
        (
            "get",
            "E1126 19:40:02.104 memcache.go:265] couldn't get current server API group list\nUnable to connect to the "
            "server: dial tcp: lookup lab.example.com: no such host\n",
            "^kubectl: Unable to connect.*the cluster doesn't answer",
        ),
        ("get", 'error: context "lab" does not exist\n', r"context \"lab\".*get-contexts"),
        ("get", "error: You must be logged in to the server (Unauthorized)\n", "log in"),
        ("create", 'Error from server (NotFound): namespaces "video" not found\n', r"set kuberay\.namespace"),
    ],
)
def test_refusals_name_the_remedy(
    pattern: str, told: str, sentence: str, jobs: dict[str, Job], kubectl: Kubectl
) -> None:
    kubectl.answer(pattern, told=told)
    with pytest.raises(RunError, match=sentence):
        with_().submit(jobs["curate"])
    if pattern == "create":  # nothing is left behind
        assert " delete " in kubectl.calls[-1][0]


def test_a_name_taken_meanwhile_is_a_clash(jobs: dict[str, Job], kubectl: Kubectl) -> None:
    kubectl.answer("create", told=f'Error from server (AlreadyExists): {CREATING}rayjobs.ray.io "x" already exists\n')
    with pytest.raises(RunError, match="is there already"):
        with_().submit(jobs["curate"])
    assert "create" in kubectl.calls[-1][0]  # what is another's is not removed


def test_without_kubectl(jobs: dict[str, Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match="no `kubectl` here"):
        with_().submit(jobs["curate"])


@pytest.mark.parametrize(
    ("found", "state", "detail"),
    [
        (ray_job(""), State.WAITING, "operator"),
        (ray_job("Initializing"), State.WAITING, "its cluster starts"),
        (ray_job("Running", "RUNNING"), State.RUNNING, "on 3 of 4 workers"),
        (ray_job("Running", "RUNNING", failed=1), State.RUNNING, "begun again 1 times"),
        (ray_job("Retrying", "FAILED"), State.WAITING, "begins again"),
        (ray_job("Complete", "SUCCEEDED"), State.SUCCEEDED, ""),
        (ray_job("Complete", "STOPPED"), State.STOPPED, ""),
        (
            ray_job("Failed", "FAILED", reason="AppFailed", message="Job entrypoint failed.\nNo such bucket\n"),
            State.FAILED,
            "AppFailed: No such bucket",
        ),
        ("", State.GONE, ""),
    ],
)
def test_conditions(found: str | dict[str, Any], state: State, detail: str, kubectl: Kubectl) -> None:
    kubectl.answer("get rayjobs.ray.io/x", found)
    kubectl.answer("get pods", {"items": []})
    now = with_().condition("rayjob/x")
    assert (now.state, detail in now.detail) == (state, True)


def pod(**status: Any) -> dict[str, Any]:
    return {"kind": "Pod", "status": status}


def test_it_says_what_pods_wait_for(kubectl: Kubectl) -> None:
    full = {"type": "PodScheduled", "status": "False", "message": "0/9 nodes: 9 Insufficient nvidia.com/gpu."}
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "r/curation:1"'}
    starting = {"reason": "ContainerCreating"}
    pods = [pod(conditions=[full])] * 3 + [pod(containerStatuses=[{"state": {"waiting": waiting}}])]
    pods.append(pod(initContainerStatuses=[{"state": {"waiting": starting}}]))
    kubectl.answer("get rayjobs.ray.io/x", ray_job("Initializing"))
    kubectl.answer("get pods --selector=s2v/job=x", {"items": pods})
    assert "3 of its pods: 0/9 nodes: 9 Insufficient" in with_().condition("rayjob/x").detail
    kubectl.answers[1:] = []
    kubectl.answer("get pods", {"items": pods[3:]})
    assert "ImagePullBackOff" in (detail := with_().condition("rayjob/x").detail)
    assert "pull_secrets" in detail


def test_a_quota_that_lets_no_pod_in_is_told(kubectl: Kubectl) -> None:
    failure = {
        "type": "ReplicaFailure",
        "status": "True",
        "message": 'pods "x-head" is forbidden: exceeded quota: team',
    }
    kubectl.answer("get rayjobs.ray.io/x", ray_job("Initializing", rayClusterStatus={"conditions": [failure]}))
    kubectl.answer("get pods", {"items": []})
    assert "exceeded quota: team" in with_().condition("rayjob/x").detail


def test_servers(kubectl: Kubectl) -> None:
    kubectl.answer("get deployment/captions", {"spec": {"replicas": 3}, "status": {"readyReplicas": 2}})
    now = with_().condition("deployment/captions")
    assert (now.state, now.detail) == (State.RUNNING, "2 of 3 servers are ready")
    with_().stop("deployment/captions")
    assert "delete deployments,services,poddisruptionbudgets --selector=s2v/job=captions" in kubectl.calls[-1][0]


def test_logs_are_those_of_the_driver(kubectl: Kubectl) -> None:
    kubectl.answer("logs job/x --tail=5", "Measure 12/40\n")
    kubectl.answer(
        "logs job/y", told='error: error from server (NotFound): jobs.batch "y" not found in namespace "v"\n'
    )
    assert with_().logs("rayjob/x", 5) == "Measure 12/40\n"
    assert with_().logs("rayjob/y", 5) == ""


def test_ray_is_asked_to_end_what_runs_and_what_waits_is_deleted(kubectl: Kubectl) -> None:
    kubectl.answer("get rayjobs.ray.io/x", ray_job("Running", "RUNNING"))
    kubectl.answer("get pods --selector=ray.io/cluster=x-qwert,ray.io/node-type=head", "pod/x-head\n")
    with_().stop("rayjob/x")
    assert "exec pod/x-head --container=ray-head -- ray job stop" in (words := kubectl.calls[-1][0])
    assert words.endswith("--no-wait x-9k2")
    kubectl.answers.clear()
    kubectl.answer("get rayjobs.ray.io/x", ray_job("Initializing"))
    with_().stop("rayjob/x")
    assert "delete rayjobs.ray.io,configmaps --selector=s2v/job=x" in kubectl.calls[-1][0]
