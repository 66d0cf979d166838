"""Jobs on Kubernetes: KubeRay makes a Ray cluster for each, Kubernetes itself runs the caption servers."""

import base64
import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from cluster import kuberay_words
from cluster.job import ATTACHED, MOST_ATTACHED, Condition, Job, State, clash
from cluster.ray_entrypoint import OBJECT_STORE, entrypoint, environment
from cluster.render import render
from cluster.settings import Cluster, Group, KubeRay
from dataset.errors import RunError, UsageError
from trainer.commands import PATIENCE

RAY_METRICS = 8080  # the port at which KubeRay lets every node of Ray export
RETRIES = 2  # after a lost head; a mistake in the command costs as many
RECONNECTS = 20  # of what follows the log: days are long for a connection
IDLE = 300  # seconds without work after which a node is given back: stages follow each other
LOADING = 7200  # seconds that a caption server may take to fetch and load its weights
QUICK = 120  # seconds in which kubectl answers, or the cluster is away
SPOT_LABELS = {  # of nodes that may be taken away, and the taints of the same name: GKE, EKS, Karpenter, AKS
    "cloud.google.com/gke-spot": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
    "karpenter.sh/capacity-type": "spot",
    "kubernetes.azure.com/scalesetpriority": "spot",
}
IMAGES = {"train": "trainer", "caption-server": "caption_server"}  # of the others: curation
RAYJOB, SERVER = "rayjob", "deployment"
MADE = {RAYJOB: "rayjobs.ray.io,configmaps", SERVER: "deployments,services,poddisruptionbudgets"}


@dataclass(frozen=True)
class Pod:
    """What the templates want to know of one. metrics: the port that Prometheus reads."""

    job: Job
    kuberay: KubeRay
    group: Group
    image: str
    metrics: int = RAY_METRICS
    attached: str = ATTACHED

    @property
    def env(self) -> dict[str, str]:
        own = {"PYTHONUNBUFFERED": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        return own | environment(self.job) | self.kuberay.env


class KubeRayJobs:
    """`cluster.job.Backend`. What it calls a job is kubectl's TYPE/NAME."""

    def __init__(self, cluster: Cluster):
        self.cluster, self.kuberay = cluster, cluster.kuberay

    # ------------------------------------------------------------ what is sent

    def render(self, job: Job) -> str:
        image = self.image(job)
        self.check_paths(job)
        shared = {"job": job, "kuberay": self.kuberay, "spot_labels": SPOT_LABELS}
        if job.kind == "caption-server":
            wanted = self.cluster.caption
            group = self.kuberay.gpu.model_copy(update={"gpus": wanted.gpus})
            return render(
                "kuberay-serve.yaml",
                server=Pod(job, self.kuberay, group, image, wanted.port),
                command=["s2v", *job.argv],
                replicas=wanted.replicas,
                loading=LOADING,
                **shared,
            )
        if self.kuberay.head.spot:
            raise UsageError(
                "kuberay.head.spot: a job ends with its head, which therefore is on no spot node. Leave it out."
            )
        workers = {name: Pod(job, self.kuberay, group, image) for name, group in self.workers(job)}
        texts, binaries = attachments(job)
        return render(
            "kuberay-job.yaml",
            head=Pod(job, self.kuberay, self.kuberay.head.model_copy(update={"gpus": 0}), image),
            workers=workers,
            grows=any(worker.group.limit > worker.group.count for worker in workers.values()),
            entrypoint=entrypoint(job, self.cluster.training, ATTACHED),
            texts=texts,
            binaries=binaries,
            ray_version=version("ray"),
            object_store=str(OBJECT_STORE),
            idle=IDLE,
            retries=0 if job.kind == "preflight" else RETRIES,
            reconnects=RECONNECTS,
            keep=max(self.kuberay.keep_seconds, PATIENCE if job.kind == "train" else 0),
            **shared,
        )

    def image(self, job: Job) -> str:
        key = IMAGES.get("train" if job.for_training else job.kind, "curation")
        if not (image := getattr(self.cluster.images, key)):
            raise UsageError(
                f"images.{key} is empty. Build containers/{key.replace('_', '-')}.Dockerfile, push it to where the "
                f"cluster gets its images, and name it: --with images.{key}=REGISTRY/NAME:TAG."
            )
        return image

    def check_paths(self, job: Job) -> None:
        """A path of this machine means nothing in a pod, unless a volume is there."""
        seen = [f"{place.path.rstrip('/')}/" for place in self.kuberay.volumes]
        for path in local_paths(job):
            if not f"{path}/".startswith((f"{ATTACHED}/", *seen)):
                raise UsageError(
                    f"{path}: pods don't see this path, as it is in none of kuberay.volumes. Give an s3:// address, or "
                    "the claim that has it: --with 'kuberay.volumes=[{claim: NAME, path: /data}]'."
                )

    def workers(self, job: Job) -> Iterator[tuple[str, Group]]:
        groups = {"cpu": self.kuberay.cpu, "gpu": self.kuberay.gpu}
        if job.for_training:
            asked = self.cluster.training
            name = "gpu" if asked.gpus_per_node else "cpu"
            change = {"count": asked.nodes, "most": asked.nodes, "gpus": asked.gpus_per_node}
            yield name, groups[name].model_copy(update=change)
            return
        used = {name: group for name, group in groups.items() if group.limit}
        if not used:
            raise UsageError("kuberay.cpu and kuberay.gpu have no nodes: --with kuberay.cpu.count=2.")
        yield from used.items()

    # ------------------------------------------------------------ what is done

    def submit(self, job: Job) -> str:
        manifest = self.render(job)
        kind = SERVER if job.kind == "caption-server" else RAYJOB
        job_id = f"{kind}/{job.name}"
        old = self.condition(job_id, why=False)
        if not old.ended:
            raise self.clash(job.name)
        self.remove(kind, job.name)  # the ended one, and what a refused one left
        try:
            self.kubectl("create", "--filename=-", text=manifest)
        except kuberay_words.Taken:
            raise self.clash(job.name) from None
        except RunError:
            self.remove(kind, job.name)
            raise
        return job_id

    def clash(self, name: str) -> RunError:
        return clash(name, f"is there already, in namespace {self.kuberay.namespace}")

    def condition(self, job_id: str, *, why: bool = True) -> Condition:
        """why: look at its pods, too, for what it waits for."""
        found = self.get(job_id)
        if found is None:
            return Condition(State.GONE)
        words = kuberay_words.server if job_id.startswith(SERVER) else kuberay_words.job
        now = words(found)
        if now.state is not State.WAITING or not why:
            return now
        trouble = kuberay_words.trouble(self.pods(name_of(job_id)))
        return Condition(now.state, "; ".join(filter(None, (now.detail, trouble))))

    def logs(self, job_id: str, lines: int) -> str:
        source = job_id if job_id.startswith(SERVER) else f"job/{name_of(job_id)}"  # that follows the driver's log
        try:
            return self.kubectl("logs", source, f"--tail={lines}", "--pod-running-timeout=1s")
        except kuberay_words.NothingYet:
            return ""

    def stop(self, job_id: str) -> None:
        """A job that runs is ended by Ray, which gives it time; its cluster and log stay for kuberay.keep_seconds."""
        kind, name = job_id.split("/")
        found = self.get(job_id)
        state = kuberay_words.job(found).state if found and kind == RAYJOB else State.WAITING
        if state is State.WAITING:
            self.remove(kind, name)
        elif found and state is State.RUNNING:
            status = found["status"]
            selector = f"ray.io/cluster={status['rayClusterName']},ray.io/node-type=head"
            head = self.kubectl("get", "pods", f"--selector={selector}", "--output=name").split()
            if not head:
                raise RunError(f"The head of {name} is away at the moment. Try again in a minute.")
            there = ("--address=http://127.0.0.1:8265", "--no-wait", status["jobId"])
            self.kubectl("exec", head[0], "--container=ray-head", "--", "ray", "job", "stop", *there)

    def remove(self, kind: str, name: str) -> None:
        self.kubectl(
            "delete", MADE[kind], f"--selector=s2v/job={name}", "--ignore-not-found", f"--timeout={QUICK - 20}s"
        )

    def get(self, job_id: str) -> dict[str, Any] | None:
        told = self.kubectl("get", job_id.replace("rayjob/", "rayjobs.ray.io/"), "--ignore-not-found", "--output=json")
        return json.loads(told) if told.strip() else None

    def pods(self, name: str) -> list[Mapping[str, Any]]:
        return json.loads(self.kubectl("get", "pods", f"--selector=s2v/job={name}", "--output=json"))["items"]

    def kubectl(self, *words: str, text: str = "") -> str:
        """What kubectl prints. Raises what was refused, as a sentence with the remedy."""
        context = (f"--context={self.kuberay.context}",) if self.kuberay.context else ()
        command = ["kubectl", *context, f"--namespace={self.kuberay.namespace}", *words]
        try:
            done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=QUICK)
        except FileNotFoundError:
            raise RunError(
                "There is no `kubectl` here. Install it, and let it know the cluster (KUBECONFIG)."
            ) from None
        except subprocess.TimeoutExpired:
            raise RunError(
                f"kubectl got no answer in {QUICK} s: is the cluster up? See `kubectl cluster-info`."
            ) from None
        if done.returncode:
            raise kuberay_words.refusal(done.stderr)
        return done.stdout


def name_of(job_id: str) -> str:
    return job_id.partition("/")[2]


def local_paths(job: Job) -> Iterator[str]:
    """In the words of the command: alone, and behind `--option=` and `KIND=`."""
    for word in job.attached(ATTACHED):
        value = re.sub(r"^(--[-\w]+=)?([A-Za-z_]\w*=(?=/))?", "", word)
        if value.startswith("/"):
            yield value.rstrip("/")


def attachments(job: Job) -> tuple[dict[str, str], dict[str, str]]:
    """The job's files for a ConfigMap: those that are text, and the others in Base64."""
    texts, binaries = {}, {}
    if (size := sum(path.stat().st_size for path in job.files)) > MOST_ATTACHED:
        raise UsageError(
            f"{', '.join(path.name for path in job.files)}: {size:,} bytes; {MOST_ATTACHED:,} at most travel. "
            "Put a large manifest into the object store or on a volume, and give its address."
        )
    for path in job.files:
        if not re.fullmatch(r"[-._A-Za-z0-9]+", path.name):
            raise UsageError(f"{path.name}: Kubernetes takes letters, digits, '-', '_' and '.' in its name: rename it.")
        content = path.read_bytes()
        try:
            texts[path.name] = content.decode()
        except UnicodeDecodeError:
            binaries[path.name] = base64.b64encode(content).decode()
    return texts, binaries
