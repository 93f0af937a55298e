#!/usr/bin/env bash
# The common part of the two train_psa_*.sh: train.sh BASE [more arguments of `psalign train`].
#   BASE  sd15 or sdxl
# Without DATA and without data/sage it lists and fetches the published captions and the base (docs/TRAINING.md).
# Optional environment variables: DATA, EMBEDS, OUT, SD_MODEL, BATCH_SIZE, MAX_STEPS, LR, NUM_PROCESSES, ACCELERATE_CONFIG, PYTHON.
set -euo pipefail

base=$1
shift
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

stop() {
    echo "train_psa_$base.sh: $1" >&2
    exit 2
}

python=${PYTHON:-$here/.venv/bin/python}
if [ -z "${PYTHON:-}" ] && [ ! -x "$python" ]; then python=python3; fi
command -v "$python" > /dev/null || stop "there is no $python; set PYTHON (an interpreter that has psalign)."

if [ -z "${DATA:-}" ]; then # SAGE, or else the captions that psalign train fetches
    DATA=data/sage
    if [ ! -e "$DATA" ] || [ -e "$DATA/published.json" ]; then DATA=published; fi
fi
if [ -z "${EMBEDS:-}" ] && [ "$DATA" != published ]; then # SAGE's vectors, or data/embeddings itself
    EMBEDS=data/embeddings/sage
    if [ ! -e "$EMBEDS" ] && [ -e data/embeddings ]; then EMBEDS=data/embeddings; fi
fi
export EMBEDS=${EMBEDS:-} DATA OUT=${OUT:-trained_models/psa-$base}
[ "$DATA" = published ] || [ -d "$DATA" ] || stop "there is no $DATA. Unpack the SAGE dataset there, or make one: psalign sage build (or set DATA; bare, captions are fetched)."
[ "$DATA" = published ] || [ -d "$EMBEDS" ] || stop "there is no $EMBEDS. Make it: psalign embed --users <the dataset's users> --out $EMBEDS (or set EMBEDS)."

run=("$python")
if [ -n "${ACCELERATE_CONFIG:-}" ]; then # launchers/accelerate/*.yaml, or your own
    run+=(-m accelerate.commands.launch --config_file "$ACCELERATE_CONFIG")
elif [ "${NUM_PROCESSES:-1}" != 1 ]; then # --multi_gpu starts NUM_PROCESSES processes; without GPUs they share the CPU
    run+=(-m accelerate.commands.launch --multi_gpu --num_processes "$NUM_PROCESSES" --num_machines 1)
    run+=(--mixed_precision no --dynamo_backend no --main_process_port 0)
fi
exec "${run[@]}" "$here/train.py" --preset "psa-$base" "$@"
