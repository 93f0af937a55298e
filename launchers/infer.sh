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
python=${PYTHON:-$here/.venv/bin/python}
[ -x "$(command -v "$python")" ] || python=python3

need() { # need NAME MEANING: stop with a message where the variable is not set
    [ -n "${!1:-}" ] || { echo "$(basename "$0"): set $1 ($2)." >&2; exit 2; }
}

need META_FILE "a .csv with a column prompt, or a .jsonl"
arguments=(--prompts "$META_FILE" --base "$base" --out "${OUT:-outputs/$base/$method${LEVEL:+/level_$LEVEL}}")
[ -z "${SD_MODEL:-}" ] || arguments+=(--model "$SD_MODEL")
if [ "$method" != base ]; then
    need PSA_PATH "an adapter: a folder, or psa_adapter.bin"
    arguments+=(--adapter "$PSA_PATH" --embeddings "${EMBEDS:-data/embeddings}")
fi
if [ "$method" = psa ] && [ -n "${LEVEL:-}" ]; then arguments+=(--level "$LEVEL"); fi
if [ "$method" = psa_llm ]; then
    arguments+=(--profiles)
    [ -z "${LLM:-}" ] || arguments+=(--llm "$LLM")
fi

run=("$python")
[ "${NUM_PROCESSES:-1}" = 1 ] || run+=(-m accelerate.commands.launch --num_processes "$NUM_PROCESSES")
exec "${run[@]}" "$here/infer.py" "${arguments[@]}" "$@"
