"""Handing a job in: to its place, and into the records of this machine."""

from datetime import UTC, datetime

from cluster.job import Backend, Job
from cluster.records import Record, read_all, save
from cluster.seen import condition
from cluster.settings import Cluster, Place
from dataset.errors import RunError


def hand_in(job: Job, to: Place, cluster: Cluster, there: Backend) -> str:
    """What the place calls it from now on. Raises where a job of that name runs, here or at another place."""
    for old in (record for record in read_all()[0] if record.name == job.name):
        if (old.to, old.cluster, old.kind) != (to, cluster, job.kind):  # the place itself looks after its own
            check_ended(old)
    job_id = there.submit(job)
    save(
        Record(
            name=job.name,
            kind=job.kind,
            to=to,
            job_id=job_id,
            home=job.home,
            argv=job.argv,
            cluster=cluster,
            submitted=datetime.now(UTC),
        )
    )
    return job_id


def check_ended(old: Record) -> None:
    try:
        ended = condition(old).ended
    except RunError as e:
        raise RunError(
            f"A job {old.name} was handed in to {old.to}, which can't be asked: {e} Give another --name."
        ) from e
    if not ended:
        raise RunError(f"A job {old.name} runs on {old.to}: s2v jobs {old.name} --stop, or give another --name.")
