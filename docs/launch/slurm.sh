#!/usr/bin/env bash
# One stage run on one node: sbatch docs/launch/slurm.sh
#SBATCH --job-name=llm
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --gres=gpu:1
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
# --signal: SLURM sends SIGTERM to this script 5 minutes before the time is up. The stage saves a state and ends.
set -euo pipefail

cd "${SLURM_SUBMIT_DIR:?}"
# shellcheck disable=SC1091
source .venv/bin/activate
: "${MLFLOW_TRACKING_URI:?the address of your MLflow server}"

dvc pull --run-cache --allow-missing || true # outputs that someone has computed already
python -m dvc repro &
repro=$!
trap 'pkill -TERM -P "$repro" || true' TERM # to the stage, which is the child of dvc
wait "$repro" || wait "$repro"              # the first wait ends with the signal
dvc push --run-cache
