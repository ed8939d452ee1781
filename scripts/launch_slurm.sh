#!/usr/bin/env bash
# Any mmfm command under Slurm, one task for each GPU:
#
#   sbatch --nodes 2 scripts/launch_slurm.sh pretrain configs/pretrain/quickstart.yaml
#
# Submit it from the checkout. The same command again, or a requeue, goes on where the run stopped.
#SBATCH --job-name=mmfm
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --output=mmfm-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?submit this script with sbatch}"

read -r MASTER_ADDR < <(scontrol show hostnames "$SLURM_JOB_NODELIST") # the first node
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export MASTER_ADDR MASTER_PORT
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$SLURM_CPUS_PER_TASK}

# Single quotes: each task fills in its own numbers.
# shellcheck disable=SC2016
srun --kill-on-bad-exit=1 bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    exec .venv/bin/python -m mmfm "$@"' mmfm "$@"
