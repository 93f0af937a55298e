#!/usr/bin/env bash
# run_eval_gpt.sh --mode evaluate --dataset all --models base safetydpo psa
# run_eval_gpt.sh --mode compare --dataset all --model-a safetydpo --model-b psa
# is `psalign eval judge` with the same arguments. From the environment: OPENAI_API_KEY, OPENAI_BASE_URL (or Azure's
# AZURE_OPENAI_ENDPOINT, AZURE_OPENAI_API_KEY, OPENAI_API_VERSION), JUDGE_MODEL, PYTHON.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python=${PYTHON:-$here/.venv/bin/python}
if [ -z "${PYTHON:-}" ] && [ ! -x "$python" ]; then python=python3; fi
if [ ! -d eval_images ] && [ -d ../eval_images ]; then set -- --images ../eval_images "$@"; fi
exec "$python" -m psalign eval judge "$@"
