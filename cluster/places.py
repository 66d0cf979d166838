"""From the name of a place to what runs jobs there."""

from cluster.job import Backend
from cluster.settings import Cluster, Place


def backend(to: Place, cluster: Cluster) -> Backend:
    """Imports only what the place needs: nobody waits for Ray who uses Slurm."""
    if to == "slurm":
        from cluster.slurm import SlurmJobs

        return SlurmJobs(cluster)
    if to == "kuberay":
        from cluster.kuberay import KubeRayJobs

        return KubeRayJobs(cluster)
    if to == "ray":
        from cluster.ray_jobs import RayJobs

        return RayJobs(cluster)
    from cluster.local import LocalJobs

    return LocalJobs(cluster)
