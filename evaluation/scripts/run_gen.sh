#!/usr/bin/env bash
# DATASET="i2p_4073 coco_10k" [GPUS=0,1,2,3] [MODELS="sd15 sdxl"] [METHODS="base sld"] evaluation/scripts/run_gen.sh [flags]
# Draws the cells of the evaluation, one process per GPU; flags are those of `psalign eval generate`.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-$here/.venv/bin/python}
command -v "$python" > /dev/null || python=python3
read -ra given <<< "--datasets ${DATASET:-debug} --bases ${MODELS:-sd15 sdxl} ${METHODS:+--methods $METHODS}"
run=("$python")
[ -z "${GPUS:-}" ] || export CUDA_VISIBLE_DEVICES=$GPUS
if [[ ${GPUS:-} == *,* ]]; then
    run+=(-m accelerate.commands.launch --multi_gpu --num_processes "$(tr , '\n' <<< "$GPUS" | wc -l)" --num_machines 1)
    run+=(--mixed_precision no --dynamo_backend no --main_process_port 0)
fi
exec "${run[@]}" -m psalign eval generate --home "$here" "${given[@]}" "$@"
