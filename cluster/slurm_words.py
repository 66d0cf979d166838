"""Slurm's own states, reasons and refusals, in plain words."""

import re
from collections.abc import Mapping

from cluster.job import Condition, State

WAITING = ("PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD")
STATES = {
    **dict.fromkeys(WAITING, State.WAITING),
    "COMPLETED": State.SUCCEEDED,
    "CANCELLED": State.STOPPED,
    **dict.fromkeys(("FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE"), State.FAILED),
    **dict.fromkeys(("PREEMPTED", "REVOKED"), State.FAILED),
}  # all others are ways of running

REASONS = (  # why it waits; the first one that begins so
    ("Resources", "it waits for nodes to become free"),
    ("Priority", "jobs of a higher priority wait before it"),
    ("Dependency", "it waits until the job of the same name has ended"),
    ("BeginTime", "it goes on in a minute or two: Slurm lets a job that is handed in again wait"),
    ("PartitionTimeLimit", "slurm.time is more than the partition gives: it will never start"),
    ("PartitionNodeLimit", "it asks for more nodes than the partition gives: it will never start"),
    ("PartitionConfig", "the partition doesn't give so many nodes, or so much time: it will never start"),
    ("Partition", "the partition is down: ask those who run the cluster"),
    ("ReqNodeNotAvail", "nodes that it needs are down or reserved"),
    ("NodeDown", "a node that it needs is down"),
    ("QOS", "a limit of the QOS is reached: it waits until your other jobs end, or asks for too much"),
    ("Assoc", "a limit of the account is reached: it waits until its other jobs end, or asks for too much"),
    ("MaxJobs", "you have as many jobs as you may"),
    ("JobHeld", "it is held: `scontrol release` lets it go on"),
    ("launch_failed", "it could not be started, and is held: `scontrol release` tries again"),
    ("BadConstraints", "no node is like that: it will never start"),
    ("Licenses", "it waits for a licence"),
    ("Reservation", "it waits for its reservation"),
    ("Invalid", "slurm.account or slurm.qos is no longer valid: it will never start"),
)
ENDS = {
    "TIMEOUT": "it ran into slurm.time",
    "NODE_FAIL": "a node failed",
    "BOOT_FAIL": "a node did not boot",
    "OUT_OF_MEMORY": "it took more memory than it had: raise slurm.memory",
    "DEADLINE": "its deadline passed",
    "PREEMPTED": "another job took its place",
}
REFUSALS = (  # a pattern in what Slurm says -> what it means, and the remedy
    ("invalid partition", "the cluster has no such partition. `sinfo --summarize` lists them: set slurm.partition."),
    (
        "invalid account|account/partition",
        "you may not use that account there. Set slurm.account; your accounts: "
        "`sacctmgr show associations user=$USER format=account,partition,qos`.",
    ),
    ("invalid qos", "you may not use that QOS. Set slurm.qos; see `sacctmgr show qos`."),
    (
        "QOS policy|AssocMax|QOSMax|job submit limit",
        "it is more than the account or QOS allows at once: fewer nodes, "
        "less time, or wait until your other jobs end (slurm.nodes, slurm.time, slurm.qos).",
    ),
    ("time limit|--time", "slurm.time is none that the partition takes. `sinfo --format='%P %l'` lists the longest."),
    ("generic resource|gres", "the cluster has no such GPUs. `sinfo --format='%P %G'` lists what it has."),
    ("feature specification", "no node has that feature: see slurm.options and `sinfo --format='%P %f'`."),
    (
        "node configuration|processors|node count|memory specification",
        "no such nodes, or not so many, are in the "
        "partition. `sinfo --format='%P %D %c %m %G'` lists nodes, CPUs, MB and GPUs: lower slurm.nodes, cpus, gpus or "
        "memory.",
    ),
    (
        "unable to contact|connect failure|connection refused|communication|timed out",
        "Slurm's controller doesn't answer. See `scontrol ping`, and try again in some minutes.",
    ),
    (
        "cannot stat file|process configuration|ClusterName|configuration source|fetch_config",
        "Slurm is installed, but not set up here: do this on a login node of the cluster.",
    ),
    (
        "munge|credential|authentication",
        "this machine is not one that the cluster trusts (munge): do this on a login node.",
    ),
)


def condition(facts: Mapping[str, str]) -> Condition:
    """facts: those of `scontrol show job`."""
    word = facts.get("JobState", "")
    state = STATES.get(word, State.RUNNING)
    if state is State.WAITING:
        return Condition(state, why(facts.get("Reason", "None")))
    if state is State.RUNNING:
        nodes, again = facts.get("NodeList", "(null)"), facts.get("Restarts", "0")
        told = [f"on {nodes}"] if nodes != "(null)" else []
        return Condition(state, ", ".join(told + ([f"restarts: {again}"] if again != "0" else [])))
    if state is State.FAILED:
        code, _, signal = facts.get("ExitCode", "").partition(":")
        exit_code = f"killed by signal {signal}" if signal not in ("", "0") else f"exit code {code}"
        return Condition(state, ENDS.get(word, exit_code))
    return Condition(state)


def why(reason: str) -> str:
    if reason in ("None", ""):
        return ""
    words = next((words for start, words in REASONS if reason.startswith(start)), "Slurm's reason")
    return f"{words} ({reason})"


def refusal(program: str, told: str) -> str:
    lines = [line for line in told.splitlines() if line.strip()]
    said = re.sub(r"^\w+: (error|fatal): (Batch job submission failed: )?", "", lines[0]) if lines else "no reason"
    meaning = next((words for pattern, words in REFUSALS if re.search(pattern, told, re.IGNORECASE)), "")
    return f"{program}: {said}{': ' if meaning else '.'}{meaning}"
