#!/bin/bash
#SBATCH --job-name=train-speech
#SBATCH --output=/home/you/.local/state/s2v/slurm/%x-%j.out
#SBATCH --open-mode=append
#SBATCH --dependency=singleton
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=96
#SBATCH --partition=gpu
#SBATCH --account=film
#SBATCH --time=3-00:00:00
#SBATCH --mem=900G
#SBATCH --gres=gpu:8
#SBATCH --requeue
#SBATCH --no-kill
#SBATCH --signal=B:USR1@1800
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
need torchrun
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

# torchrun on each node. When a node is lost, the others begin again at the newest checkpoint, if they are enough.
ask_to_end() { scancel --signal=TERM "$SLURM_JOB_ID"; } # all steps: each rank saves its part of a checkpoint
endpoint=$(hostname):$(python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')

# shellcheck disable=SC2016
start='prepare
exec torchrun "$@"'
agent=(--nnodes=6:8 --nproc-per-node=8
  --rdzv-backend=c10d --rdzv-endpoint="$endpoint" --rdzv-id="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"
  --max-restarts=10 --shutdown-timeout=1800 --no-python s2v train --stage speech --data /shared/l --out /shared/r)

if [ "$others" -gt 0 ]; then
  srun "${on_others[@]}" bash -ec "$start" torchrun --rdzv-conf=is_host=false "${agent[@]}" &
fi
code=0
# This node's torchrun says how it ended: others may be lost by then.
run srun "${on_head[@]}" bash -ec "$start" torchrun --rdzv-conf=is_host=true "${agent[@]}" || code=$?
if [ -z "$ended" ] && [ "$(squeue --noheader --jobs="$SLURM_JOB_ID" --format=%D)" -lt 6 ]; then
  echo "Too few nodes are left."
  ended=again
fi
leave "$code"
