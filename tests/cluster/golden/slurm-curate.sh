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

# USR1: the time is nearly up, or (preempt_send_user_signal) another job is to have the nodes. USR2: `s2v jobs --stop`.
# TERM: Slurm itself ends the job, and has decided what becomes of it. All may take long: what runs saves its work first.
ended="" pid="" heard=""
end() {
  heard=yes
  if [ -z "$ended" ]; then
    ended=$1
    [ -z "$pid" ] || ask_to_end || : # it may have just ended
  elif [ "$ended" != stop ] && [ "$1" != again ]; then
    ended=$1 # it is saving already
  fi
}
trap "end again" USR1
trap "end slurm" TERM
trap "end stop" USR2

run() { # in the background, as bash hears no signal meanwhile
  [ -z "$ended" ] || return 143
  "$@" &
  pid=$!
  [ -z "$ended" ] || ask_to_end || : # the signal came before its number was known
  wait_for "$pid"
}
exec {pause}<> <(:) # from which nothing is ever read
wait_for() { # not in `wait`: bash loses how something ended if a signal comes at that moment
  local code
  while kill -0 "$1" 2> /dev/null; do read -r -t 0.2 -u "$pause" || :; done
  while :; do
    code=0 heard=""
    wait "$1" || code=$?
    [ -n "$heard" ] || return "$code" # else a signal cut it short, and bash still knows
  done
}
leave() {
  [ "$1" -ne 0 ] || exit 0
  case "$ended $(scontrol show job "$SLURM_JOB_ID")" in
    stop\ *) scancel "$SLURM_JOB_ID" ;; # such that Slurm calls it cancelled, not failed
    # The second: another job is to have the nodes, of which Slurm told only what srun started, so that it may save.
    again\ * | \ *PreemptTime=[0-9]* | slurm\ *Reason=TimeLimit*)
      if scontrol requeue "$SLURM_JOB_ID"; then echo "It is handed in again, to go on where it was."; fi
      ;;
  esac
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
folder=/tmp/s2v-$SLURM_JOB_ID
trap "kill -TERM \$! || :" TERM
ray start --block --node-name="$SLURMD_NODENAME" --num-cpus="$SLURM_CPUS_PER_TASK" \
  --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 \
  --metrics-export-port="${S2V_METRICS_PORT:-0}" --object-store-memory=1073741824 "$@" &
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

absent, until = set(sys.argv[1:]), time.monotonic() + 300
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
    sys.exit(f"Ray: {', '.join(sorted(absent))} did not join in 300 s.")
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
run s2v curate 's3://raw/*.mp4' --out /shared/talkers --policy 'it'"'"'s; a $(touch pwned) `b` "c" & *' || code=$?
leave "$code"
