#!/usr/bin/env bash
# The common part of the six infer_*.sh: infer.sh BASE METHOD [more arguments of `psalign generate`].
#   BASE    sd15 or sdxl
#   METHOD  base: no adapter; psa: users with stored vectors, or one LEVEL; psa_llm: users without a stored vector get
#           one from the profile columns of META_FILE (by LLM, if a language model made the stored vectors)
# Optional environment variables: META_FILE, SD_MODEL, PSA_PATH, EMBEDS, USERS, LEVEL, LLM, OUT, NUM_PROCESSES, PYTHON.
set -euo pipefail

base=$1 method=$2
shift 2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

stop() {
    echo "infer_${base}_$method.sh: $1" >&2
    exit 2
}
there() { # there NAME PATH COMMAND: stop if the path does not exist, and name the command that makes it
    [ -e "$2" ] || stop "there is no $2. Make it: $3 (or set $1)."
}

META_FILE=${META_FILE:-$here/data/example_prompts.csv} # a .csv with a column prompt, or a .jsonl
PSA_PATH=${PSA_PATH:-trained_models/psa-$base}         # an adapter's folder, a training run's folder, or psa_adapter.bin
stored=${EMBEDS:-data/embeddings/sage}                 # or data/embeddings, if SAGE has no folder
if [ -z "${EMBEDS:-}" ] && [ ! -e "$stored" ]; then stored=data/embeddings; fi
there META_FILE "$META_FILE" "git checkout -- data"
if [ "$method" = base ]; then LEVEL=; fi # the base model has no levels
if [ "$method" = psa_llm ] && [ -n "${LEVEL:-}" ]; then stop "LEVEL is for infer_${base}_psa.sh; unset it."; fi
if [ "$method" != base ]; then there PSA_PATH "$PSA_PATH" "bash launchers/train_psa_$base.sh"; fi
if [ "$method" = psa ] || { [ "$method" = psa_llm ] && [ -n "${EMBEDS:-}" ]; }; then
    there EMBEDS "$stored" "python utils/generate_user_embeddings.py"
fi

python=${PYTHON:-$here/.venv/bin/python}
if [ -z "${PYTHON:-}" ] && [ ! -x "$python" ]; then python=python3; fi
command -v "$python" > /dev/null || stop "there is no $python; set PYTHON (an interpreter that has psalign)."

out=outputs/$base/$method${LEVEL:+/level_$LEVEL}
arguments=(--prompts "$META_FILE" --base "$base" --out "${OUT:-$out}" ${USERS:+--users "$USERS"})
if [ -n "${SD_MODEL:-}" ]; then arguments+=(--model "$SD_MODEL"); fi
if [ "$method" != base ]; then
    arguments+=(--adapter "$PSA_PATH")
    if [ -e "$stored" ]; then arguments+=(--embeddings "$stored"); fi
elif [ -n "${EMBEDS:-}" ]; then # with EMBEDS the manifest has users and their bans, for comparison
    arguments+=(--embeddings "$EMBEDS")
fi
if [ -n "${LEVEL:-}" ]; then arguments+=(--level "$LEVEL"); fi
if [ "$method" = psa_llm ]; then arguments+=(--profiles ${LLM:+--llm "$LLM"}); fi

run=("$python")
if [ "${NUM_PROCESSES:-1}" != 1 ]; then # --multi_gpu starts NUM_PROCESSES processes; without GPUs they share the CPU
    run+=(-m accelerate.commands.launch --multi_gpu --num_processes "$NUM_PROCESSES" --num_machines 1)
    run+=(--mixed_precision no --dynamo_backend no --main_process_port 0)
fi
exec "${run[@]}" "$here/infer.py" "${arguments[@]}" "$@"
