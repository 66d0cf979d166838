"""What a job is to Ray, whoever makes the cluster: its driver's command line and environment."""

import shlex

from cluster.job import Job
from cluster.settings import Training
from trainer.commands import PATIENCE

OBJECT_STORE = 1 << 30  # bytes a node: only small rows pass through it


def entrypoint(job: Job, training: Training, folder: str) -> str:
    """folder: where the job's files lie on the nodes. Training goes over nodes by torchrun."""
    if job.kind != "train":
        return job.command(folder)
    return shlex.join(
        [
            *("python", "-m", "cluster.torchrun_on_ray", "--nodes", f"{training.fewest}:{training.nodes}"),
            *("--gpus-per-node", str(training.gpus_per_node), "--restarts", str(training.restarts)),
            *("--", *job.attached(folder)[1:]),
        ]
    )


def environment(job: Job) -> dict[str, str]:
    """Ray gives a driver that is asked to end 3 s; training saves a checkpoint first."""
    return {"RAY_JOB_STOP_WAIT_TIME_S": str(PATIENCE)} if job.kind == "train" else {}
