"""Where it runs: this machine, a Ray cluster, Kubernetes with KubeRay, Slurm. Only the command lines of the others are
used here."""
