#!/usr/bin/env bash
# What the six infer_*.sh share: infer.sh BASE METHOD [more arguments of `psalign generate`].
#   BASE    sd15 or sdxl
#   METHOD  base: the base model itself; psa: users from stored vectors, or LEVEL; psa_llm: vectors made of the profile
#           columns of META_FILE, by LLM where the stored vectors were made by a language model
# From the environment: META_FILE, SD_MODEL, PSA_PATH, EMBEDS, LEVEL, LLM, OUT, NUM_PROCESSES, PYTHON.
set -euo pipefail

base=$1 method=$2
shift 2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

stop() {
    echo "infer_${base}_$method.sh: $1" >&2
    exit 2
}
need() { # need NAME MEANING: stop with a message where the variable is not set
    [ -n "${!1:-}" ] || stop "set $1 ($2)."
}

need META_FILE "a .csv with a column prompt, or a .jsonl"
[ "$method" = base ] || need PSA_PATH "an adapter: a folder, or psa_adapter.bin"
if [ "$method" = base ]; then LEVEL=; fi # the base model knows no levels
if [ "$method" = psa_llm ] && [ -n "${LEVEL:-}" ]; then stop "LEVEL is for infer_${base}_psa.sh; unset it."; fi

python=${PYTHON:-$here/.venv/bin/python}
if [ -z "${PYTHON:-}" ] && [ ! -x "$python" ]; then python=python3; fi
command -v "$python" > /dev/null || stop "there is no $python; set PYTHON (an interpreter that has psalign)."

out=outputs/$base/$method${LEVEL:+/level_$LEVEL}
arguments=(--prompts "$META_FILE" --base "$base" --out "${OUT:-$out}")
if [ -n "${SD_MODEL:-}" ]; then arguments+=(--model "$SD_MODEL"); fi
if [ "$method" = base ]; then # with EMBEDS the manifest names users and their bans, to compare with
    arguments+=(${EMBEDS:+--embeddings "$EMBEDS"})
else
    arguments+=(--adapter "$PSA_PATH" --embeddings "${EMBEDS:-data/embeddings/sage}")
fi
if [ -n "${LEVEL:-}" ]; then arguments+=(--level "$LEVEL"); fi
if [ "$method" = psa_llm ]; then arguments+=(--profiles ${LLM:+--llm "$LLM"}); fi

run=("$python")
if [ "${NUM_PROCESSES:-1}" != 1 ]; then # --multi_gpu: so many processes; without GPUs they share the CPU
    run+=(-m accelerate.commands.launch --multi_gpu --num_processes "$NUM_PROCESSES" --num_machines 1)
    run+=(--mixed_precision no --dynamo_backend no --main_process_port 0)
fi
exec "${run[@]}" "$here/infer.py" "${arguments[@]}" "$@"
