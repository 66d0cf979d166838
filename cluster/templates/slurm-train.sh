{% include "slurm-top.sh" %}
{% include "slurm-nodes.sh" %}

# torchrun on each node. When a node is lost, the others begin again at the newest checkpoint, if they are enough.
ask_to_end() { scancel --signal=TERM "$SLURM_JOB_ID"; } # all steps: each rank saves its part of a checkpoint
endpoint=$(hostname):$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')

# shellcheck disable=SC2016
start='prepare
exec torchrun "$@"'
agent=(--nnodes={{ least }}:{{ nodes }} --nproc-per-node={{ processes }}
  --rdzv-backend=c10d --rdzv-endpoint="$endpoint" --rdzv-id="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"
  --max-restarts={{ restarts }} --shutdown-timeout={{ patience }} --no-python {{ command | raw }})

if [ "$others" -gt 0 ]; then
  srun "${on_others[@]}" bash -ec "$start" torchrun --rdzv-conf=is_host=false "${agent[@]}" &
fi
code=0
# This node's torchrun says how it ended: others may be lost by then.
run srun "${on_head[@]}" bash -ec "$start" torchrun --rdzv-conf=is_host=true "${agent[@]}" || code=$?
{% if least < nodes %}
if [ -z "$ended" ] && [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%D)" -lt {{ least }} ]; then
  echo "Too few nodes are left."
  ended=again
fi
{% endif %}
leave "$code"
