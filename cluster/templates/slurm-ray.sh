{% include "slurm-top.sh" %}
{% include "slurm-nodes.sh" %}

# A Ray cluster of this job alone, also where nodes are shared: free ports, a folder and a token of its own.
# (`ray symmetric-run` takes no request to end, and its `ray stop` would end other jobs' Ray, too.)
ask_to_end() { kill -TERM "$pid"; }
read -r ip port client_port < <(python - << "END"
import socket

import ray.util

held = [socket.socket() for _ in range(2)]
for one in held:
    one.bind(("", 0))
print(ray.util.get_node_ip_address(), *(one.getsockname()[1] for one in held))
END
)
export RAY_ADDRESS="$ip:$port" RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_USAGE_STATS_ENABLED=0
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # all nodes end at once, with nothing left to do
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d " \n")
ray_log={{ logs }}/$SLURM_JOB_NAME-$SLURM_JOB_ID.ray

# shellcheck disable=SC2016
start='prepare
folder=/tmp/s2v-$SLURM_JOB_ID
trap "kill -TERM \$! || :" TERM
ray start --block --node-name="$SLURMD_NODENAME" --num-cpus="$SLURM_CPUS_PER_TASK" \
  --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 \
  --metrics-export-port="${S2V_METRICS_PORT:-0}" --object-store-memory={{ object_store }} "$@" &
while kill -0 $! 2> /dev/null; do wait $! || :; done
echo "What Ray complained of on $SLURMD_NODENAME, while it ran or as it ended:"
grep -shv "^[:{]" "$folder"/session_2*/logs/{raylet,gcs_server,worker}*.err | tail -n 100
rm -rf "$folder"'

nodes_joined() { # NODE...: waits for these
  exec python - "$@" << "END"
import logging
import os
import socket
import sys
import time

import ray

absent, until = set(sys.argv[1:]), time.monotonic() + {{ patience }}
host, port = os.environ["RAY_ADDRESS"].rsplit(":", 1)
while absent and time.monotonic() < until:
    time.sleep(0.5)
    try:
        socket.create_connection((host, int(port)), 5).close()
        if not ray.is_initialized():
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        absent = set(sys.argv[1:]) - {node["NodeName"] for node in ray.nodes() if node["Alive"]}
    except OSError:  # not up yet
        continue
if absent:
    sys.exit(f"Ray: {', '.join(sorted(absent))} did not join in {{ patience }} s.")
END
}
ray_is_up() {
  run nodes_joined "$@" || { [ -n "$ended" ] || tail -n 25 "$ray_log"; leave 1; }
}

srun "${on_head[@]}" bash -ec "$start" ray --head --temp-dir="/tmp/s2v-$SLURM_JOB_ID" \
  --node-ip-address="$ip" --port="$port" --ray-client-server-port="$client_port" --include-dashboard=false >> "$ray_log" 2>&1 &
ray_is_up "$SLURMD_NODENAME"
if [ "$others" -gt 0 ]; then
  srun "${on_others[@]}" bash -ec "$start" ray --address="$RAY_ADDRESS" >> "$ray_log" 2>&1 &
  mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
  ray_is_up "${nodes[@]}"
fi
echo "Ray is up on $SLURM_JOB_NUM_NODES node(s) ($SLURM_JOB_NODELIST). What it says: $ray_log"

code=0
run {{ command | raw }} || code=$?
leave "$code"
