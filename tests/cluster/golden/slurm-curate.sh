#!/bin/bash
#SBATCH --job-name=curate-talkers
#SBATCH --output=/home/you/.local/state/s2v/slurm/%x-%j.out
#SBATCH --open-mode=append
#SBATCH --dependency=singleton
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=96
#SBATCH --partition=gpu
#SBATCH --account=film
#SBATCH --time=3-00:00:00
#SBATCH --mem=900G
#SBATCH --gres=gpu:8
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --signal=B:USR1@120
#SBATCH '--constraint=h100&ib'
#SBATCH '--comment=two words'

set -e
export 'HF_HOME=/shared/hugging face'
prepare() { # on every node
module load cuda
source /shared/s2v/.venv/bin/activate
:
}
export -f prepare
prepare
need() {
  command -v "$1" > /dev/null && return
  echo "$1 isn't on the PATH here. Let slurm.setup activate the environment of s2v."
  exit 1
}
need s2v
need ray
need python

# USR1: the time is nearly up. TERM: `s2v jobs --stop`. Both may take long: what runs saves its work first.
ended="" pid="" heard=""
end() {
  heard=yes
  if [ -z "$ended" ]; then
    ended=$1
    [ -z "$pid" ] || ask_to_end || : # it may have just ended
  elif [ "$1" = stop ]; then
    ended=stop # it is saving already, and isn't to go on afterwards
  fi
}
trap "end again" USR1
trap "end stop" TERM

run() { # in the background, as bash hears no signal meanwhile
  [ -z "$ended" ] || return 143
  "$@" &
  pid=$!
  [ -z "$ended" ] || ask_to_end || : # the signal came before its number was known
  wait_for "$pid"
}
wait_for() {
  local code
  while :; do
    code=0 heard=""
    wait "$1" || code=$?
    [ -n "$heard" ] || return "$code" # else a signal may have cut it short, and bash still knows how that one ended
  done
}
leave() {
  if [ "$1" -ne 0 ] && [ "$ended" = again ]; then
    echo "It is handed in again, to go on where it was."
    scontrol requeue "$SLURM_JOB_ID"
  elif [ "$1" -ne 0 ] && [ "$ended" = stop ]; then
    scancel "$SLURM_JOB_ID" # such that Slurm calls it cancelled, not failed
  fi
  exit "$1" # Slurm ends what still runs on the nodes
}
on_head=(--nodes=1 --ntasks=1 --nodelist="$SLURMD_NODENAME" --cpus-per-task="$SLURM_CPUS_PER_TASK")
others=$((SLURM_JOB_NUM_NODES - 1))
on_others=(--nodes="$others" --ntasks="$others" --exclude="$SLURMD_NODENAME" --cpus-per-task="$SLURM_CPUS_PER_TASK"
  --no-kill --kill-on-bad-exit=0)

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
ray_log=/home/you/.local/state/s2v/slurm/$SLURM_JOB_NAME-$SLURM_JOB_ID.ray

# shellcheck disable=SC2016
start='prepare
exec ray start --block --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --min-worker-port=0 \
  --max-worker-port=0 --dashboard-agent-listen-port=0 --metrics-export-port="${S2V_METRICS_PORT:-0}" \
  --object-store-memory=1073741824 "$@"'

nodes_joined() { # NUMBER: waits for so many
  exec python - "$1" << "END"
import logging
import os
import socket
import sys
import time

import ray

wanted, until, here = int(sys.argv[1]), time.monotonic() + 300, 0
host, port = os.environ["RAY_ADDRESS"].rsplit(":", 1)
while here < wanted and time.monotonic() < until:
    time.sleep(0.5)
    try:
        socket.create_connection((host, int(port)), 5).close()
        if not ray.is_initialized():
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        here = sum(node["Alive"] for node in ray.nodes())
    except OSError:  # not up yet
        continue
if here < wanted:
    sys.exit(f"Ray: {here} of {wanted} nodes are there after 300 s.")
END
}
ray_is_up() {
  run nodes_joined "$1" || { [ -n "$ended" ] || tail -n 25 "$ray_log"; leave 1; }
}

srun "${on_head[@]}" bash -ec "$start" ray --head --temp-dir="/tmp/s2v-$SLURM_JOB_ID" \
  --node-ip-address="$ip" --port="$port" --ray-client-server-port="$client_port" --include-dashboard=false >> "$ray_log" 2>&1 &
ray_is_up 1
if [ "$others" -gt 0 ]; then
  srun "${on_others[@]}" bash -ec "$start" ray --address="$RAY_ADDRESS" >> "$ray_log" 2>&1 &
  ray_is_up "$SLURM_JOB_NUM_NODES"
fi
echo "Ray is up on $SLURM_JOB_NUM_NODES node(s) ($SLURM_JOB_NODELIST). What it says: $ray_log"

code=0
run s2v curate 's3://raw/*.mp4' --out /shared/talkers --policy 'it'"'"'s; a $(touch pwned) `b` "c" & *' || code=$?
leave "$code"
