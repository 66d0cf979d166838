"""Jobs on a Ray cluster that is up, handed in at its dashboard with Ray's own client."""

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import yaml
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from cluster.job import Condition, Job, State, clash
from cluster.ray_entrypoint import entrypoint, environment
from cluster.settings import Cluster
from dataset.errors import RunError, UsageError

HERE = "."  # where a job's files are, on every node: Ray starts all its processes in a folder of their own
SETTLED = 3  # seconds after its end in which Ray would take a new job of a name for the old one
BEGIN = "Runtime env is setting up."  # the first line that Ray writes into the log of a job
STATES = {
    JobStatus.PENDING: State.WAITING,
    JobStatus.RUNNING: State.RUNNING,
    JobStatus.SUCCEEDED: State.SUCCEEDED,
    JobStatus.FAILED: State.FAILED,
    JobStatus.STOPPED: State.STOPPED,
}


class RayJobs:
    """A job's driver runs on the head, its work wherever there is room."""

    def __init__(self, cluster: Cluster):
        self.cluster = cluster
        self.address = cluster.ray.address.rstrip("/")
        if not self.address.startswith(("http://", "https://")):
            raise UsageError(f"ray.address {self.address}: that of the dashboard is needed, such as http://HEAD:8265.")

    def render(self, job: Job) -> str:
        sent = {"address": self.address, **self.request(job)}
        return yaml.safe_dump(sent, sort_keys=False, allow_unicode=True, width=1000)

    def submit(self, job: Job) -> str:
        request = self.request(job)
        with tempfile.TemporaryDirectory() as folder, self.explained():
            self.make_room(job.name)
            if job.files:
                for path in job.files:
                    shutil.copy(path, folder)
                request["runtime_env"]["working_dir"] = folder
            return self.client.submit_job(**request)

    def request(self, job: Job) -> dict[str, Any]:
        """What Ray's client is told; in place of the folder that it uploads, the names of the files in it."""
        asked = self.cluster.ray.env
        runtime: dict[str, Any] = {
            "env_vars": asked | environment(job) | asked
        }  # what is asked for comes first, and wins
        if job.files:
            runtime["working_dir"] = [path.name for path in job.files]
        return {
            "submission_id": job.name,
            "entrypoint": self.entrypoint(job),
            "entrypoint_num_gpus": self.cluster.caption.gpus if job.kind == "caption-server" else 0,
            "runtime_env": runtime,
            "metadata": {"s2v": job.kind, "home": job.home},
        }

    def entrypoint(self, job: Job) -> str:
        if job.kind == "caption-server" and self.cluster.caption.replicas > 1:
            raise UsageError(
                f"caption.replicas={self.cluster.caption.replicas}: a job on a Ray cluster is one server. Submit "
                "several, each with --name and --with caption.replicas=1; `s2v caption` takes --server more than once."
            )
        return entrypoint(job, self.cluster.training, HERE)

    def make_room(self, name: str) -> None:
        """Ray keeps ended jobs for ever, and a name for one of them."""
        old = self.details(name)
        if old is None:
            return
        if not old.status.is_terminal():
            raise clash(name, "runs there already")
        time.sleep(SETTLED)
        self.client.delete_job(name)

    def condition(self, job_id: str) -> Condition:
        with self.explained():
            details = self.details(job_id)
        if details is None:
            return Condition(State.GONE, "the cluster doesn't know it: its head was started anew, perhaps")
        return Condition(STATES[details.status], sentence(details))

    def logs(self, job_id: str, lines: int) -> str:
        with self.explained():
            text = self.client.get_job_logs(job_id) if self.details(job_id) else ""
        own = text.rpartition(BEGIN)[2]  # Ray goes on with the log of a deleted job of that name
        return "\n".join(own.splitlines()[-lines:]) if lines else ""

    def stop(self, job_id: str) -> None:
        with self.explained():
            if self.details(job_id):
                self.client.stop_job(job_id)

    def details(self, name: str) -> JobDetails | None:
        try:
            return self.client.get_job_info(name)
        except RuntimeError as e:
            if "status code 404" in str(e):
                return None
            raise

    @cached_property
    def client(self) -> JobSubmissionClient:
        for name in ("ray", "ray.dashboard.modules.dashboard_sdk"):
            logging.getLogger(name).setLevel(logging.ERROR)
        for variable in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):  # Ray would rather go where they point
            os.environ.pop(variable, None)
        return JobSubmissionClient(self.address, headers=authorization())

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What Ray's client raises, as a sentence with the remedy."""
        try:
            yield
        except AuthenticationError as e:
            if "Missing" in str(e):
                said = "asks for a token: export RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH with the file that holds it."
            else:
                said = "refuses the token: RAY_AUTH_TOKEN isn't the one that the cluster was started with."
            raise RunError(f"{self.address} {said}") from e
        except (ConnectionError, requests.exceptions.ConnectionError) as e:
            raise RunError(f"{self.address} doesn't answer: is the cluster up? ray.address says where it is.") from e
        except (requests.exceptions.RequestException, KeyError, RuntimeError) as e:
            if not isinstance(e, RuntimeError) or "Version check returned 404" in str(e):
                said = "isn't a Ray dashboard: ray.address is to name one, with its port."
            else:
                said = f"refuses: {str(e).splitlines()[0]}"
            raise RunError(f"{self.address} {said}") from e


def authorization() -> dict[str, str]:
    """The token, always where there is one: Ray's client leaves it out unless RAY_AUTH_MODE=token was set before."""
    token, path = os.environ.get("RAY_AUTH_TOKEN", ""), os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not token and path:
        try:
            token = Path(path).read_text()
        except OSError as e:
            raise RunError(f"RAY_AUTH_TOKEN_PATH {path} can't be read: {e.strerror}.") from e
    return {"Authorization": f"Bearer {token.strip()}"} if token else {}


def sentence(details: JobDetails) -> str:
    """Ray's message in a line. It doesn't keep what a failed command said but for the log's last lines."""
    if details.status == JobStatus.RUNNING:
        return f"its driver is on {urlsplit(details.driver_agent_http_address or '').hostname}"
    lines = [line for line in (details.message or "").splitlines() if line.strip()]
    if details.status == JobStatus.FAILED and len(lines) > 1:
        told = next((line for line in reversed(lines) if line.startswith("Error")), lines[-1])
        return f"exit code {details.driver_exit_code}: {told.strip()}"
    return lines[0].strip() if lines else ""
