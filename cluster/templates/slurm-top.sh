#!/bin/bash
#SBATCH --job-name={{ name }}
#SBATCH --output={{ logs }}/%x-%j.out
#SBATCH --open-mode=append
#SBATCH --dependency=singleton
#SBATCH --nodes={{ nodes }}
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task={{ cpus }}
{% for line in directives %}
#SBATCH {{ line }}
{% endfor %}

set -e
{% for name, value in env.items() %}
export {{ name ~ "=" ~ value }}
{% endfor %}
prepare() { # on every node
{% for line in setup %}
{{ line | raw }}
{% endfor %}
:
}
export -f prepare
prepare
need() {
  command -v "$1" > /dev/null && return
  echo "$1 isn't on the PATH here. Let slurm.setup activate the environment of s2v."
  exit 1
}
{% for program in programs %}
need {{ program }}
{% endfor %}

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
