"""What an operator says once of a cluster, in a file `cluster.yaml`. `s2v submit example` prints one with comments."""

import os
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from dataset.config import load, parse
from dataset.errors import UsageError

VARIABLE, FILE = "S2V_CLUSTER", "cluster.yaml"


class Setting(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Group(Setting):
    """Nodes that are alike. count: that are there from the start. most: up to which Ray may ask for more; 0: count."""

    count: int = Field(1, ge=0)
    most: int = Field(0, ge=0)
    cpus: int = Field(8, ge=1)  # of a node
    gpus: int = Field(0, ge=0)
    memory: str = Field("32Gi", pattern=r"^[0-9]+(Mi|Gi|Ti)$")
    spot: bool = False  # may be taken away at any time, and says so in labels and tolerations
    node_selector: dict[str, str] = {}

    @property
    def limit(self) -> int:
        return max(self.count, self.most)


class Volume(Setting):
    """A claim that all pods see under the same path."""

    claim: str
    path: str = Field(pattern=r"^/.+")


class Images(Setting):
    """Built from containers/. Empty: what needs it says so before anything is sent."""

    curation: str = ""
    trainer: str = ""
    caption_server: str = ""


class RayCluster(Setting):
    """One that is up. Its token is read from RAY_AUTH_TOKEN (or the file RAY_AUTH_TOKEN_PATH) and never kept."""

    address: str = "http://127.0.0.1:8265"  # of the dashboard, where jobs are handed in
    env: dict[str, str] = {}  # of the job


class KubeRay(Setting):
    context: str = ""  # of kubectl; empty: the current one
    namespace: str = "default"
    service_account: str = ""
    pull_secrets: list[str] = []
    secrets: list[str] = []  # whose keys become environment variables of all pods: object store, Hugging Face, vLLM
    env: dict[str, str] = {}
    volumes: list[Volume] = []
    head: Group = Group(cpus=4, memory="16Gi")
    cpu: Group = Group(count=2, most=8, cpus=16, memory="64Gi")
    gpu: Group = Group(count=0, most=0, cpus=16, gpus=1, memory="128Gi")
    keep_seconds: int = Field(3600, ge=0)  # that an ended job and its logs stay


class Slurm(Setting):
    partition: str = ""
    account: str = ""
    qos: str = ""
    time: str = "24:00:00"
    nodes: int = Field(1, ge=1)
    cpus: int = Field(8, ge=1)  # of a node
    gpus: int = Field(0, ge=0)  # of a node
    memory: str = ""  # of a node, such as 64G; empty: what the partition gives
    options: list[str] = []  # further #SBATCH lines, such as "--constraint=h100"
    setup: list[str] = []  # shell lines that every node runs first, such as "source /shared/s2v/.venv/bin/activate"
    env: dict[str, str] = {}


class Training(Setting):
    """nodes: of the job. least: with which training goes on when others are lost; 0: nodes."""

    nodes: int = Field(1, ge=1)
    least: int = Field(0, ge=0)
    gpus_per_node: int = Field(8, ge=0)  # 0: one process on CPUs
    restarts: int = Field(10, ge=0)

    @property
    def fewest(self) -> int:
        if self.least > self.nodes:
            raise UsageError("training.least is more than training.nodes: make it at most that.")
        return self.least or self.nodes


class Caption(Setting):
    """The vLLM service: `replicas` servers behind one address, each on `gpus` GPUs."""

    model: str = "Qwen/Qwen2.5-VL-72B-Instruct"
    replicas: int = Field(1, ge=1)
    gpus: int = Field(8, ge=1)
    gpu: str = "h100-80"
    port: int = Field(8000, ge=1, le=65535)


class Cluster(Setting):
    images: Images = Images()
    ray: RayCluster = RayCluster()
    kuberay: KubeRay = KubeRay()
    slurm: Slurm = Slurm()
    training: Training = Training()
    caption: Caption = Caption()


Place = Literal["local", "ray", "kuberay", "slurm"]
PLACES: tuple[Place, ...] = ("local", "ray", "kuberay", "slurm")


def load_cluster(name: str, changes: list[str]) -> Cluster:
    """The file that was named, else $S2V_CLUSTER, else ./cluster.yaml, else defaults; with `KEY.KEY=VALUE` changes."""
    named = name or os.environ.get(VARIABLE, "")
    path = Path(named or FILE)
    if named and not path.is_file():
        raise UsageError(f"{path}: there is no such file. `s2v submit example > {path}` makes one to fill in.")
    cluster = load(Cluster, path) if path.is_file() else Cluster()
    for change in changes:
        cluster = changed(cluster, change)
    return cluster


def changed(cluster: Cluster, change: str) -> Cluster:
    key, equals, value = change.partition("=")
    section, dot, name = key.partition(".")
    if not equals or not dot or section not in Cluster.model_fields:
        raise UsageError(f"--with {change}: write it as SECTION.KEY=VALUE, such as slurm.partition=gpu.")
    data = cluster.model_dump()
    place = data[section]
    *parents, last = name.split(".")
    for parent in parents:
        place = place.get(parent) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise UsageError(f"--with {change}: there is no {section}.{'.'.join(parents)}.")
    place[last] = yaml.safe_load(value)
    return parse(Cluster, data, f"--with {change}")
