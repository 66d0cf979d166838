"""Jobs through Slurm: one allocation a job, handed in with sbatch.

Nodes are taken to see the same files as the machine that hands it in, the home directory among them, as is usual: a
job's recipe stays where it lies, and what the job prints lies in s2v's state.
"""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from cluster import slurm_words
from cluster.job import Condition, Job, State, clash
from cluster.local import tail
from cluster.ray_entrypoint import OBJECT_STORE
from cluster.records import state
from cluster.render import render
from cluster.settings import Cluster
from dataset.errors import RunError, UsageError
from trainer.commands import PATIENCE

RAY_PATIENCE = 300  # seconds for all nodes to join Ray
ENDING = {"train": PATIENCE, "curate": 120, "preflight": 60}  # seconds before the time limit that a job is asked to end
QUICK = 120  # seconds in which a command of Slurm answers, or its controller is away


class SlurmJobs:
    """`cluster.job.Backend`."""

    def __init__(self, cluster: Cluster):
        self.cluster, self.slurm, self.training = cluster, cluster.slurm, cluster.training

    def render(self, job: Job) -> str:
        nodes, gpus = self.size(job)
        return render(
            {"train": "slurm-train.sh", "caption-server": "slurm-serve.sh"}.get(job.kind, "slurm-ray.sh"),
            name=job.name,
            logs=str(folder()),
            nodes=nodes,
            cpus=self.slurm.cpus,
            directives=list(self.directives(job, gpus)),
            env=self.slurm.env,
            setup=self.slurm.setup,
            programs=needed(job),
            command=job.command(),
            patience=PATIENCE if job.kind == "train" else RAY_PATIENCE,
            object_store=OBJECT_STORE,
            least=self.training.fewest,
            processes=max(1, gpus),
            restarts=self.training.restarts,
            port=self.cluster.caption.port,
        )

    def size(self, job: Job) -> tuple[int, int]:
        """Nodes, and GPUs of each."""
        if job.for_training:
            return self.training.nodes, self.training.gpus_per_node
        if job.kind == "caption-server":
            return self.cluster.caption.replicas, self.cluster.caption.gpus
        return self.slurm.nodes, self.slurm.gpus

    def directives(self, job: Job, gpus: int) -> Iterator[str]:
        slurm, server = self.slurm, job.kind == "caption-server"
        given = {
            "partition": slurm.partition,
            "account": slurm.account,
            "qos": slurm.qos,
            "time": slurm.time,
            "mem": slurm.memory,
            "gres": f"gpu:{gpus}" if gpus else "",
        }
        lines = [f"--{name}={value}" for name, value in given.items() if value]
        lines.append("--no-requeue" if server else "--requeue")  # a server's address would be another one
        if job.kind != "train" or self.training.fewest < self.training.nodes:
            lines.append("--no-kill")
        limit = seconds(slurm.time)
        if limit and not server:
            # Not at once when the time is short: a job that is asked to end as it begins would be queued for ever.
            lines.append(f"--signal=B:USR1@{min(ENDING[job.kind], limit // 4)}")
        for line in (*lines, *slurm.options):
            if not line.isprintable() or "\\" in line:
                raise UsageError(f"slurm: {line!r} can't be in an #SBATCH line: no line breaks or backslashes.")
            yield line

    def submit(self, job: Job) -> str:
        script = self.render(job)
        if not self.slurm.setup and shutil.which("s2v") is None:
            raise UsageError(
                "slurm.setup is empty, and no s2v on the PATH that the job would inherit. Activate its environment "
                "here, or let slurm.setup do it: --with 'slurm.setup=[source /shared/s2v/.venv/bin/activate]'."
            )
        if running := run("squeue", "--me", "--noheader", "--format=%i", f"--name={job.name}").split():
            raise clash(job.name, f"is there already ({running[0]})")
        folder().mkdir(parents=True, exist_ok=True)
        return run("sbatch", "--parsable", text=script).strip().split(";")[0]  # ID;CLUSTER where there are several

    def condition(self, job_id: str) -> Condition:
        try:
            told = run("scontrol", "show", "job", job_id)
        except Unknown:
            return ended(job_id)
        facts = dict(re.findall(r"(\w+)=(\S*)", told))
        return slurm_words.condition(facts)

    def logs(self, job_id: str, lines: int) -> str:
        try:
            found = re.search(r"^\s*StdOut=(.+)$", run("scontrol", "show", "job", job_id), re.MULTILINE)
            files = [Path(found[1])] if found else []
        except Unknown:  # Slurm forgets a job minutes after its end
            files = list(folder().glob(f"*-{job_id}.out"))
        if not files or not files[0].is_file():
            return ""
        with files[0].open("rb") as log:
            return tail(log, lines)

    def stop(self, job_id: str) -> None:
        """One that runs is asked by its script to save what it has; one that waits is taken out of the queue."""
        now = self.condition(job_id).state
        if now is State.WAITING:
            run("scancel", job_id)
        elif now is State.RUNNING:
            run("scancel", "--batch", "--signal=USR2", job_id)


def folder() -> Path:
    """Of what jobs print."""
    return state() / "slurm"


class Unknown(RunError):
    """Slurm doesn't know the job."""


def run(*words: str, text: str = "") -> str:
    """What a command of Slurm prints. Raises what it refused, as a sentence with the remedy."""
    try:
        done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=QUICK)
    except FileNotFoundError:
        raise RunError(f"There is no `{words[0]}` here: do this on a login node of the Slurm cluster.") from None
    except subprocess.TimeoutExpired:
        raise RunError(
            f"`{words[0]}` got no answer in {QUICK} s: is Slurm's controller up? See `scontrol ping`."
        ) from None
    if done.returncode == 0:
        return done.stdout
    if "Invalid job id" in done.stderr:
        raise Unknown(f"Slurm knows no job {words[-1]}.")
    raise RunError(slurm_words.refusal(words[0], done.stderr))


def ended(job_id: str) -> Condition:
    """Of a job that the controller has forgotten: accounting knows it, where there is any."""
    try:
        told = run("sacct", "--allocations", "--noheader", "--parsable2", "--format=State,ExitCode", f"--jobs={job_id}")
    except RunError:
        return Condition(State.GONE)
    state, _, code = (told.splitlines() or [""])[-1].partition("|")
    return (
        slurm_words.condition({"JobState": state.split(" ")[0], "ExitCode": code}) if state else Condition(State.GONE)
    )


def needed(job: Job) -> tuple[str, ...]:
    extra = {"train": ("torchrun", "python"), "caption-server": ()}.get(job.kind, ("ray", "python"))
    return ("s2v", *extra)


def seconds(limit: str) -> int:
    """Of Slurm's time formats: M, M:S, H:M:S, D-H, D-H:M, D-H:M:S. Without limit: 0."""
    if not limit:
        raise UsageError(
            "slurm.time is empty: without a limit that is known, nobody saves before it. Give it 24:00:00."
        )
    if limit.upper() in ("UNLIMITED", "INFINITE"):
        return 0
    if not re.fullmatch(r"(\d+-\d+(:\d+){0,2})|(\d+(:\d+){0,2})", limit):
        raise UsageError(f"slurm.time: {limit} is none of Slurm's forms, such as 24:00:00 or 3-00:00:00.")
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if not dash and len(parts) < 3:
        parts.insert(0, 0)  # the first one is minutes
    hours, minutes, rest_seconds = (*parts, 0, 0)[:3]
    return int(days or 0) * 86_400 + hours * 3600 + minutes * 60 + rest_seconds
