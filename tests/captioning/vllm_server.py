"""A real vLLM server on this machine, for tests: started, killed, started again, and nothing left behind."""

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

VLLM = Path(__file__).resolve().parents[2] / ".venv-serve" / "bin" / "vllm"
NAME = "tiny-qwen2.5-vl"  # of the model, in requests
PATIENCE = 300  # seconds until it answers: a busy machine needs 90
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # else the CPU build makes a process of the executor, too
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else all of its threads go to the first core
    "OMP_NUM_THREADS": "1",
}
FLAGS = (
    *("--served-model-name", NAME, "--host", "127.0.0.1", "--dtype", "bfloat16", "--enforce-eager"),
    *("--distributed-executor-backend", "uni"),
    *("--max-num-seqs", "16", "--max-model-len", "16384"),
    *("--max-num-batched-tokens", "8192"),  # and as much of encoded video: a clip of 64 pictures
    *("--limit-mm-per-prompt", '{"image": 0, "video": 1}', "--mm-processor-cache-gb", "0"),
    *("--structured-outputs-config", '{"backend": "guidance"}', "--trust-request-mm-kwargs"),
    *("--generation-config", "vllm"),
)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class VllmServer:
    """Serves `model_dir` on loopback while the context lasts. Raises RuntimeError with the log's end if it can't.

    It has a process group of its own: after SIGKILL of the API server its engine lives on as an orphan.
    """

    def __init__(self, model_dir: Path, port: int, log: Path) -> None:
        self.command = [str(VLLM), "serve", str(model_dir), "--port", str(port), *FLAGS]
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Of the API server, and of the process group."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env=os.environ | ENVIRONMENT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self.wait()
        except BaseException:  # also Ctrl-C: nobody else knows of these processes
            self.stop()
            raise

    def wait(self) -> None:
        """Until it answers."""
        assert self.process is not None
        end = time.monotonic() + PATIENCE
        while not self.healthy():
            if self.process.poll() is not None:
                raise RuntimeError(f"vLLM ended with code {self.process.returncode}:\n{self.tail()}")
            if time.monotonic() > end:
                raise RuntimeError(f"vLLM does not answer after {PATIENCE} s:\n{self.tail()}")
            time.sleep(0.2)

    def healthy(self) -> bool:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with direct.open(f"{self.url}/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def kill(self, how: signal.Signals) -> None:
        """Send the API server a signal; its engine is left as it is."""
        os.kill(self.pid, how)

    def restart(self) -> None:
        self.stop()
        self.start()

    def stop(self, patience: float = 15.0) -> None:
        """SIGTERM, and after `patience` seconds SIGKILL for all that is left, orphans included."""
        if self.process is None:
            return
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        left = members(self.pid)
        for process in left:
            process.kill()
        self.process.wait()
        psutil.wait_procs(left, timeout=10)
        self.process = None


def members(group: int) -> list[psutil.Process]:
    """The processes of a group that run; dead ones that no parent has fetched yet don't."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, ProcessLookupError):  # ended since it was listed
            continue
    return found
