#!/bin/bash
# A Slurm array over a plan: element i of N makes every N-th shard. The corpus lies where all nodes see it.
#
#   ctok dataset plan photos --out tokens
#   sbatch --array=0-9 slurm.sh tokens 10
#   sbatch --array="$(ctok dataset missing tokens)" slurm.sh tokens 10   # later, of what is missing; no list: all is there
#
# N stays the same, however many elements are resubmitted. Elements whose share is done end at once.
#SBATCH --job-name=ctok
#SBATCH --output=ctok-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --cpus-per-task=8
#SBATCH --time=4:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
corpus=$1 workers=$2 most_tries=5

# Slurm sends SIGUSR1 two minutes before the time limit, to this script alone; ctok ends at SIGTERM within a moment.
is_time_over=
trap 'is_time_over=1; kill -TERM "$worker"' USR1
ctok dataset run "$corpus" --shard "/$workers" &
worker=$!
wait "$worker"
code=$?
if [ "$is_time_over" ]; then
  wait "$worker"
  code=75
fi

# 75: another try is worth it. What scancel ends does not come here; what is preempted, or was on a node that failed, Slurm requeues.
if [ "$code" -eq 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt "$most_tries" ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
