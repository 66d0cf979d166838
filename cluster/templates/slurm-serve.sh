{% include "slurm-top.sh" %}

# A server on each node: `s2v caption` deals clips out among them, and goes on with the others when one is lost.
ask_to_end() { scancel --signal=TERM "$SLURM_JOB_ID"; }
echo "When they are up, caption with:$(scontrol show hostnames "$SLURM_JOB_NODELIST" | while read -r node; do
  printf " --server http://%s:%s" "$node" {{ port }}
done)"

# shellcheck disable=SC2016
code=0
run srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --no-kill --kill-on-bad-exit=0 bash -ec 'prepare
exec "$@"' serve {{ command | raw }} || code=$?
leave "$code"
