#!/usr/bin/env bash
# [META_FILE=prompts.csv] [PSA_PATH=trained_models/psa-sd15] [LLM=Qwen/Qwen2.5-7B-Instruct] [SD_MODEL=...] [OUT=...] launchers/infer_sd15_psa_llm.sh
exec "$(dirname "${BASH_SOURCE[0]}")/infer.sh" sd15 psa_llm "$@"
