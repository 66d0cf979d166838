"""The GPUs of a node, and whether they can talk to each other."""

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence

from cluster.checks import Check

QUERY = "name,memory.total,memory.used,driver_version"
BUSY = 0.05  # of a GPU's memory: more than that is somebody's
SLOW = 10.0  # GB/s on the bus, less than PCIe 4 gives
PATIENCE = 240  # seconds
NAME = "all-reduce"


def gpus(promised: int = 0) -> Check:
    """promised: how many the cluster says this node has."""
    if shutil.which("nvidia-smi") is None:
        return fewer(0, promised) if promised else Check("GPUs", "skipped", "none: no nvidia-smi")
    command = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        return Check(
            "GPUs", "bad", f"nvidia-smi: {last_line(done.stdout + done.stderr)}", "mend the driver, or drain it"
        )
    return judge([line.split(", ") for line in done.stdout.splitlines() if line.strip()], promised, usable())


def judge(rows: list[list[str]], promised: int, usable: int | None) -> Check:
    """rows: of QUERY. usable: by torch; None: torch isn't there."""
    if len(rows) < promised or not rows:
        return fewer(len(rows), promised) if promised else Check("GPUs", "skipped", "none")
    names, drivers = sorted({row[0] for row in rows}), sorted({row[3] for row in rows})
    memory = min(amount(row[1]) for row in rows) / 1024
    what = f"{len(rows)} x {' and '.join(names)}, {memory:.0f} GiB, driver {' and '.join(drivers)}"
    if usable == 0:
        remedy = "install a torch with CUDA that the driver can run"
        return Check("GPUs", "bad" if promised else "warn", f"{what}; torch can use none", remedy)
    busy = max(amount(row[2]) / max(1.0, amount(row[1])) for row in rows)
    if busy > BUSY:
        return Check("GPUs", "warn", f"{what}; {{}} % of a GPU's memory is taken", "see who: nvidia-smi", (100 * busy,))
    return Check("GPUs", "ok", what)


def amount(text: str) -> float:
    """MiB; 0 where a GPU doesn't tell."""
    return float(text) if text.strip().isdigit() else 0.0


def fewer(seen: int, promised: int) -> Check:
    remedy = "look for the missing ones with nvidia-smi and dmesg, and drain the node"
    return Check("GPUs", "bad", f"{seen} seen, of {promised} that the cluster counts on", remedy)


def usable() -> int | None:
    """GPUs that torch can use here; None: there is no torch."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def between_gpus() -> Check:
    """NCCL over all GPUs of the node."""
    count = usable()
    if count is None:
        return Check(NAME, "skipped", "torch isn't installed")
    if count < 2:
        return Check(NAME, "skipped", "one GPU" if count else "no GPU")
    return all_reduce(count, "nccl", 256)


def all_reduce(processes: int, backend: str, megabytes: int, patience: float = PATIENCE) -> Check:
    """Over processes of this node."""
    meet = ("--standalone", f"--nproc-per-node={processes}")
    found = sum_up(meet, backend, megabytes, patience)
    if isinstance(found, str):
        again = f"python {' '.join(command(meet, backend, megabytes, patience)[1:])}"
        return Check(NAME, "bad", f"{backend} over {processes}: {found}", f"see why: NCCL_DEBUG=INFO {again}")
    what = f"{backend} over {processes}, {{}} GB/s"
    if backend == "nccl" and found < SLOW:
        remedy = "look at `nvidia-smi topo -m`: no NVLink, or no peer access over PCIe (ACS, IOMMU)?"
        return Check(NAME, "warn", what, remedy, (found,))
    return Check(NAME, "ok", what, numbers=(found,))


def sum_up(meet: Sequence[str], backend: str, megabytes: int, patience: float = PATIENCE) -> float | str:
    """GB/s as NCCL's own tests count them: on the bus of each GPU. Or what went wrong.

    meet: options of torchrun, by which processes of this node, and those of others, find each other as in training.
    """
    words = command(meet, backend, megabytes, patience)
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            printed, errors = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            process.terminate()  # not kill: torchrun ends its processes, which hold the GPUs
            process.communicate()
            return f"it did not end in {patience:g} s"
    told = [line for line in printed.splitlines() if line.startswith("GB/s")]
    if process.returncode or not told:
        return complaint(errors)
    return float(told[-1].split()[1])


def command(meet: Sequence[str], backend: str, megabytes: int, patience: float) -> list[str]:
    """A process gives up in half the time, and says what it waited for."""
    program = ("-m", "cluster.checks.all_reduce", backend, str(megabytes), f"{patience / 2:g}")
    return [sys.executable, "-m", "torch.distributed.run", *meet, *program]


def complaint(text: str) -> str:
    """The line of a traceback that says what was wrong."""
    errors = [line for line in text.splitlines() if "Error:" in line and "ChildFailedError" not in line]
    return (errors[0].split("]: ")[-1] if errors else last_line(text))[:300]


def last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no word")
