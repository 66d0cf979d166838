#!/bin/bash
#SBATCH --job-name=captions
#SBATCH --output=/home/you/.local/state/s2v/slurm/%x-%j.out
#SBATCH --open-mode=append
#SBATCH --dependency=singleton
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=96
#SBATCH --partition=gpu
#SBATCH --account=film
#SBATCH --time=3-00:00:00
#SBATCH --mem=900G
#SBATCH --gres=gpu:8
#SBATCH --no-requeue
#SBATCH --no-kill
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

# A server on each node: `s2v caption` deals clips out among them, and goes on with the others when one is lost.
ask_to_end() { scancel --signal=TERM "$SLURM_JOB_ID"; }
echo "When they are up, caption with:$(scontrol show hostnames "$SLURM_JOB_NODELIST" | while read -r node; do
  printf " --server http://%s:%s" "$node" 8000
done)"

# shellcheck disable=SC2016
code=0
run srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --no-kill --kill-on-bad-exit=0 bash -ec 'prepare
exec "$@"' serve s2v caption serve --gpus 8 --port 8000 || code=$?
leave "$code"
