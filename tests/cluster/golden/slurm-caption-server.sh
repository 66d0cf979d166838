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
