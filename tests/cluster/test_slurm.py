"""Slurm: scripts as they are sent, as bash runs them with stand-ins of Slurm's commands, and its words."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import slurm
from cluster.job import Job
from cluster.settings import Cluster
from cluster.slurm import SlurmJobs, seconds
from cluster.slurm_words import refusal, why
from dataset.errors import RunError, UsageError

GOLDEN = Path(__file__).parent / "golden"
NASTY = 'it\'s; a $(touch pwned) `b` "c" & *'
SETTINGS = {
    "slurm": {
        "partition": "gpu",
        "account": "film",
        "time": "3-00:00:00",
        "nodes": 4,
        "cpus": 96,
        "gpus": 8,
        "memory": "900G",
        "options": ["--constraint=h100&ib", "--comment=two words"],
        "setup": ["module load cuda", "source /shared/s2v/.venv/bin/activate"],
        "env": {"HF_HOME": "/shared/hugging face"},
    },
    "training": {"nodes": 8, "least": 6},
    "caption": {"replicas": 2},
}
JOBS = {
    "curate": Job(
        "curate", "curate-talkers", ("curate", "s3://raw/*.mp4", "--out", "/shared/talkers", "--policy", NASTY)
    ),
    "train": Job("train", "train-speech", ("train", "--stage", "speech", "--data", "/shared/l", "--out", "/shared/r")),
    "caption-server": Job("caption-server", "captions", ("caption", "serve", "--gpus", "8", "--port", "8000")),
}


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("S2V_STATE", str(tmp_path / "state"))
    return tmp_path / "state"


# ---------------------------------------------------------------- scripts


@pytest.mark.parametrize("kind", JOBS)
def test_what_is_sent_is_the_golden_file_and_is_clean_bash(kind: str, state: Path) -> None:
    script = SlurmJobs(Cluster.model_validate(SETTINGS)).render(JOBS[kind])
    golden = GOLDEN / f"slurm-{kind}.sh"
    shown = script.replace(str(state), "/home/you/.local/state/s2v")
    if os.environ.get("S2V_WRITE_GOLDEN"):
        golden.write_text(shown)
    assert shown == golden.read_text()
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    if shutil.which("shellcheck"):
        checked = subprocess.run(
            ["shellcheck", "--severity=warning", "-"], input=script, text=True, capture_output=True
        )
        assert checked.returncode == 0, checked.stdout


def test_a_setting_can_not_become_another_line(state: Path) -> None:
    cluster = Cluster.model_validate({"slurm": {"partition": "gpu\ntouch pwned"}})
    with pytest.raises(UsageError, match="no line breaks"):
        SlurmJobs(cluster).render(JOBS["curate"])


def test_a_short_job_is_not_asked_to_end_as_it_begins() -> None:
    def asked(kind: str, limit: str) -> str:
        cluster = Cluster.model_validate({"slurm": {"time": limit}})
        return "".join(re.findall(r"--signal=B:USR1@(\d+)", SlurmJobs(cluster).render(JOBS[kind])))

    assert [asked("train", limit) for limit in ("24:00:00", "20", "UNLIMITED")] == ["1800", "300", ""]
    assert [asked("curate", limit) for limit in ("1-0", "4:00")] == ["120", "60"]
    assert asked("caption-server", "1-0") == ""


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("90", 5400), ("1:30", 90), ("2:00:00", 7200), ("1-6", 108_000), ("1-6:30", 109_800), ("0-0:0:5", 5)],
)
def test_slurms_times(limit: str, expected: int) -> None:
    assert seconds(limit) == expected


def test_a_wrong_time_is_told_before_anything_is_sent() -> None:
    with pytest.raises(UsageError, match=r"slurm\.time: 2 days"):
        SlurmJobs(Cluster.model_validate({"slurm": {"time": "2 days"}})).render(JOBS["curate"])


# ---------------------------------------------------------------- as bash runs them

JOB = f"test-{os.getpid()}"
STOPPED, AGAIN = f"scancel {JOB}", f"scontrol requeue {JOB}"
STAND_INS = {
    "s2v": """printf '%s\\n' "$@" > {folder}/words; echo "$RAY_ADDRESS $RAY_AUTH_MODE" > {folder}/ray
printf %s "$RAY_AUTH_TOKEN" > {folder}/token
save() { echo > {folder}/saving; until [ -e {folder}/enough ]; do sleep 0.05; done; echo saved > {folder}/saved; }
trap "save; exit 9" TERM
echo >> {folder}/runs; [ -z "$HOLD" ] || for i in $(seq 1000); do sleep 0.05; done; exit $CODE""",
    "srun": """echo "$@" > {folder}/srun-$$
while [[ $1 == --* ]]; do shift; done
"$@" & trap "kill -TERM $!" TERM; echo $! >> {folder}/steps; wait $! || code=$?; wait $! || code=$?; exit $code""",
    "ray": """logs=/tmp/s2v-$SLURM_JOB_ID/session_2030/logs; mkdir -p $logs
printf ':job_id:01\\n{"message": "worker starts"}\\nFatal Python error: Aborted\\n' > $logs/$$
mv $logs/$$ $logs/worker-$$.err
exec sleep 60""",
    "torchrun": 'while [[ $1 != --no-python ]]; do shift; done; shift; exec "$@"',
    "python": """while read -r line; do :; done; echo 127.0.0.1 2001 2002""",
    "hostname": "echo head",
    "scontrol": """[ "$2" != hostnames ] || { printf 'n1\\nn2\\n'; exit; }
[ "$1 $2" != "show job" ] || { echo "JobState=RUNNING Reason=None PreemptTime=None"; cat {folder}/facts; exit; }
echo "scontrol $*" >> {folder}/told""",
    "scancel": """echo "scancel $*" >> {folder}/told
[ "$1" != --signal=TERM ] || while read -r pid; do kill -TERM "$pid"; done < {folder}/steps""",
    "squeue": "echo 2",
}


class Node:
    """Runs a script as the first node of two would, with commands that note how they were called."""

    def __init__(self, folder: Path):
        self.folder, self.scratch = folder, Path(f"/tmp/s2v-{JOB}")
        self.facts("")
        (folder / "bin").mkdir()
        for name, text in STAND_INS.items():
            (folder / "bin" / name).write_text(f"#!/bin/bash\n{text.replace('{folder}', str(folder))}\n")
            (folder / "bin" / name).chmod(0o755)

    def start(self, job: Job, *, hold: bool = False, code: int = 0, **settings: dict) -> subprocess.Popen:
        cluster = Cluster.model_validate({"training": {"nodes": 2}, "caption": {"replicas": 2}} | settings)
        self.job, script = job, self.folder / "script"
        script.write_text(SlurmJobs(cluster).render(job))
        (self.folder / "state" / "slurm").mkdir(parents=True, exist_ok=True)
        slurm = {"JOB_ID": JOB, "JOB_NAME": job.name, "JOB_NUM_NODES": 2, "JOB_NODELIST": "n[1-2]", "CPUS_PER_TASK": 2}
        variables = {f"SLURM_{key}": str(value) for key, value in slurm.items()} | {"SLURMD_NODENAME": "n1"}
        variables |= {
            "HOLD": "yes" if hold else "",
            "CODE": str(code),
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
        }
        self.process = subprocess.Popen(
            ["bash", str(script)],
            cwd=self.folder,
            env=os.environ | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        return self.process

    def facts(self, text: str) -> None:
        """What else `scontrol show job` is to say."""
        (self.folder / "facts").write_text(text)

    def wait_for_runs(self) -> None:
        """Until srun has started on both nodes, and what it started, or the script itself, heeds signals."""
        self.wait_for("steps", 2)
        self.wait_for("runs", 2 if self.job.kind == "train" else 1)

    def wait_for(self, name: str, lines: int = 1) -> None:
        until = time.monotonic() + 60
        while self.read(name).count("\n") < lines:
            assert time.monotonic() < until
            assert self.process.poll() is None, self.finish()
            time.sleep(0.02)

    def finish(self) -> str:
        """What it printed."""
        self.process.wait(timeout=60)
        self.end()
        return self.process.communicate()[0]

    def end(self) -> None:
        """What is left of a job, Slurm ends."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def read(self, name: str) -> str:
        file = self.folder / name
        return file.read_text() if file.exists() else ""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path)
    yield node
    node.end()


@pytest.mark.parametrize("kind", JOBS)
def test_words_arrive_as_they_were_and_the_exit_code_comes_back(node: Node, kind: str) -> None:
    job = Job(JOBS[kind].kind, "job", (*JOBS[kind].argv, NASTY, "*", ""))
    process = node.start(job, code=3)
    told = node.finish()
    assert process.returncode == 3, told
    assert node.read("words").split("\n")[:-1] == list(job.argv)
    assert not (node.folder / "pwned").exists()
    assert node.read("told") == ""


def test_ray_is_of_the_job_alone_and_its_token_is_never_told(node: Node) -> None:
    process = node.start(JOBS["curate"], hold=True)
    node.wait_for_runs()
    process.send_signal(signal.SIGUSR2)
    (node.folder / "enough").touch()
    told = node.finish()
    token = node.read("token")
    assert node.read("ray").split() == ["127.0.0.1:2001", "token"]
    assert re.fullmatch("[0-9a-f]{64}", token)
    sruns = [file.read_text() for file in node.folder.glob("srun-*")]
    assert token not in told + "".join([*sruns, *(p.read_text() for p in (node.folder / "state/slurm").iterdir())])
    head, others = sorted(sruns, key=lambda words: "--head" not in words)
    assert re.search("--nodelist=n1 .*--head", head, re.DOTALL)
    assert "--exclude=n1" in others


@pytest.mark.parametrize(
    ("asked", "facts", "then"),
    [
        ([signal.SIGUSR2], "", STOPPED),
        ([signal.SIGUSR1], "", AGAIN),
        ([signal.SIGTERM], "", ""),
        ([signal.SIGTERM], "PreemptTime=2030-01-01T00:00:00", ""),
        ([signal.SIGUSR1, signal.SIGTERM], "Reason=TimeLimit", AGAIN),
        ([signal.SIGUSR1, signal.SIGTERM], "", ""),
        ([signal.SIGUSR1, signal.SIGUSR2], "", STOPPED),
        ([signal.SIGUSR2, signal.SIGTERM], "PreemptTime=2030-01-01T00:00:00", STOPPED),
    ],
    ids=[
        "s2v jobs --stop",
        "the time is nearly up",
        "scancel or scontrol requeue",
        "scancel in the time of grace",
        "the time is up",
        "scancel while it saves",
        "s2v jobs --stop while it saves",
        "s2v jobs --stop, and it is preempted while it saves",
    ],
)
@pytest.mark.parametrize("kind", ["curate", "train"])
def test_work_is_saved_before_it_ends(
    node: Node, kind: str, asked: list[signal.Signals], facts: str, then: str
) -> None:
    """And whether it goes on afterwards."""
    node.facts(facts)
    process = node.start(JOBS[kind], hold=True)
    node.wait_for_runs()
    process.send_signal(asked[0])
    node.wait_for("saving")
    for later in asked[1:]:  # one: of two at the same moment, bash loses one where it waits
        process.send_signal(later)
    (node.folder / "enough").touch()
    told = node.finish()
    assert node.read("saved") == "saved\n", told
    assert process.returncode == 9
    decided = [line for line in node.read("told").splitlines() if "--signal" not in line]
    assert decided == ([then] if then else [])


@pytest.mark.parametrize("kind", ["curate", "train"])
def test_when_slurm_has_told_only_what_srun_started_that_another_job_takes_the_nodes(node: Node, kind: str) -> None:
    """As in the time of grace before a preemption: the script is told nothing, and sees how its work ends."""
    node.facts("PreemptEligibleTime=2029-12-31T00:00:00 PreemptTime=2030-01-01T00:00:00")
    process = node.start(JOBS[kind], code=3)
    assert "It is handed in again" in node.finish()
    assert (process.returncode, node.read("told")) == (3, f"{AGAIN}\n")


def test_a_request_to_stop_is_the_signal_that_the_script_takes_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, ...]] = []
    monkeypatch.setattr(slurm, "run", lambda *words, **_: told.append(words) or "JobState=RUNNING")
    jobs = SlurmJobs(Cluster())
    jobs.stop("7")
    assert told[-1] == ("scancel", "--batch", "--signal=USR2", "7")
    assert 'trap "end stop" USR2' in jobs.render(JOBS["train"])


def test_what_has_ended_well_meanwhile_is_not_handed_in_again(node: Node) -> None:
    (node.folder / "bin" / "s2v").write_text(
        f"#!/bin/bash\ntrap 'exit 0' TERM\necho >> {node.folder}/runs\nsleep 60 & wait\n"
    )
    process = node.start(JOBS["curate"])
    node.wait_for_runs()
    process.send_signal(signal.SIGUSR1)
    node.finish()
    assert (process.returncode, node.read("told")) == (0, "")


def test_of_ray_its_complaints_stay_and_its_folder_goes(node: Node) -> None:
    process = node.start(JOBS["curate"], hold=True)
    node.wait_for_runs()
    until = time.monotonic() + 60
    while len(list(node.scratch.rglob("worker-*.err"))) < 2:
        assert time.monotonic() < until
        time.sleep(0.02)
    process.kill()
    for pid in node.read("steps").split():  # what still runs on the nodes, Slurm ends
        os.kill(int(pid), signal.SIGTERM)
    while node.scratch.exists():
        assert time.monotonic() < until
        time.sleep(0.02)
    said = node.read(f"state/slurm/{JOBS['curate'].name}-{JOB}.ray")
    assert "What Ray complained of on n1" in said
    assert "Fatal Python error: Aborted" in said
    assert "worker starts" not in said


def test_training_begins_again_when_too_few_nodes_are_left(node: Node) -> None:
    node.start(JOBS["train"], code=1, training={"nodes": 4, "least": 3})
    assert "Too few nodes" in node.finish()
    assert node.read("told") == f"{AGAIN}\n"


def test_servers_tell_their_addresses(node: Node) -> None:
    node.start(JOBS["caption-server"])
    assert "--server http://n1:8000 --server http://n2:8000" in node.finish()


def test_a_node_without_s2v_says_what_to_set(node: Node) -> None:
    (node.folder / "bin" / "ray").unlink()
    node.start(JOBS["curate"], slurm={"setup": [f"PATH={node.folder}/bin:/usr/bin:/bin"]})
    assert "ray isn't on the PATH here. Let slurm.setup activate" in node.finish()


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("Resources", "nodes to become free (Resources)"),
        ("QOSMaxJobsPerUserLimit", "a limit of the QOS"),
        ("AssocGrpGRES", "a limit of the account"),
        ("PartitionTimeLimit", "more than the partition gives: it will never start"),
        ("SomethingNew", "(SomethingNew)"),
    ],
)
def test_reasons_are_plain(reason: str, told: str) -> None:
    assert told in why(reason)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
            "Set slurm.account",
        ),
        (
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates "
            "accounting/QOS policy (job submit limit, user's size and/or time limits)",
            "than the account or QOS allows",
        ),
        (
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
            "controller doesn't answer",
        ),
        ("sbatch: error: Batch job submission failed: Something new", "sbatch: Something new."),
        ("", "sbatch: no reason"),
    ],
)
def test_refusals_have_a_remedy(said: str, told: str) -> None:
    assert told in refusal("sbatch", said)


def test_without_slurm_it_says_where_to_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "s2v").touch(0o755)
    with pytest.raises(RunError, match="login node"):
        SlurmJobs(Cluster()).submit(JOBS["curate"])


def test_an_environment_that_the_job_would_not_find_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"slurm\.setup"):
        SlurmJobs(Cluster()).submit(JOBS["curate"])
