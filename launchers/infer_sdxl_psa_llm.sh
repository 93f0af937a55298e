#!/usr/bin/env bash
# [META_FILE=prompts.csv] [PSA_PATH=trained_models/psa-sdxl] [LLM=Qwen/Qwen2.5-7B-Instruct] [SD_MODEL=...] [OUT=...] launchers/infer_sdxl_psa_llm.sh
exec "$(dirname "${BASH_SOURCE[0]}")/infer.sh" sdxl psa_llm "$@"
