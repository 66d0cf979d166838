"""A real Slurm of two nodes on this machine, for tests: daemons, ports, key and folder of its own."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.cluster.ray_cluster import free_ports

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch")
SBIN = "/usr/sbin"
CONF = """\
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=30
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=5
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=1000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=1000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE
PartitionName=short Nodes=n1 MaxTime=10
"""


def missing() -> str:
    """Why it can't run here; empty: it can."""
    absent = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:{SBIN}") is None]
    if absent:
        return f"needs Slurm's {', '.join(absent)} (Debian: slurmctld, slurmd, slurm-client and munge)"
    return "" if (os.cpu_count() or 1) >= 2 else "needs two CPUs"


@contextlib.contextmanager
def slurm_here(settings: str = "") -> Iterator[dict[str, str]]:
    """Variables under which Slurm's commands speak to it. settings: further lines of slurm.conf."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # sockets need short paths
    folder.chmod(0o755)  # munged insists on it
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.touch(0o600)
    key.write_bytes(os.urandom(64))
    conf = folder / "slurm.conf"
    user = subprocess.check_output(["id", "-un"], text=True).strip()
    host = socket.gethostname().split(".")[0]
    conf.write_text(CONF.format(host=host, ports=free_ports(3), user=user, folder=folder) + settings)
    variables = {"SLURM_CONF": str(conf)}
    files = [
        f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("key-file", "socket", "pid-file", "seed-file")
    ]
    daemons = {
        "munged": ["munged", "--foreground", "--force", *files],
        "slurmctld": ["slurmctld", "-D"],
        "n1": ["slurmd", "-D", "-N", "n1"],
        "n2": ["slurmd", "-D", "-N", "n2"],
    }
    processes = []
    try:
        for name, (program, *options) in daemons.items():
            with (folder / f"{name}.log").open("wb") as log:
                words, environment = [f"{SBIN}/{program}", *options], os.environ | variables
                processes.append(subprocess.Popen(words, env=environment, stdout=log, stderr=log))
            if name == "munged":
                wait_for_socket(folder)
        wait_for_nodes(variables, folder)
        yield variables
    finally:
        end_jobs(variables)
        for process in reversed(processes):
            process.terminate()
            process.wait(timeout=60)
        end_steps(folder)
        shutil.rmtree(folder, ignore_errors=True)


def wait_for_socket(folder: Path) -> None:
    until = time.monotonic() + 60
    while not (folder / "munge.socket").exists():
        assert time.monotonic() < until, logs(folder)
        time.sleep(0.1)


def wait_for_nodes(variables: dict[str, str], folder: Path) -> None:
    until = time.monotonic() + 120
    command = ["sinfo", "--noheader", "--Node", "--partition=main", "--format=%T"]
    while True:
        told = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
        if told.stdout.split() == ["idle", "idle"]:
            return
        assert time.monotonic() < until, told.stderr + logs(folder)
        time.sleep(0.2)


def logs(folder: Path) -> str:
    return "\n".join(f"{path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in folder.glob("*.log"))


def end_jobs(variables: dict[str, str]) -> None:
    """What a job runs outlives the daemons."""
    environment = os.environ | variables
    subprocess.run(["scancel", "--me"], env=environment, capture_output=True)
    until = time.monotonic() + 60
    while time.monotonic() < until:
        left = subprocess.run(["squeue", "--me", "--noheader"], env=environment, capture_output=True, text=True)
        if not left.stdout.strip():
            return
        time.sleep(0.2)


def end_steps(folder: Path) -> None:
    """Those of a node that was lost wait for it for ever. They are known by their sockets."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == "slurmstepd" and any(
                str(folder) in str(c.laddr) for c in process.net_connections("unix")
            ):
                process.kill()
