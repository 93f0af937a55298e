#!/usr/bin/env bash
# Generates pictures with SDXL and an adapter, for users whose profiles are columns of META_FILE.
# Optional environment variables (docs/GENERATE.md): META_FILE, PSA_PATH, EMBEDS, SD_MODEL, OUT,
# LLM=Qwen/Qwen2.5-7B-Instruct, ...
exec "$(dirname "${BASH_SOURCE[0]}")/infer.sh" sdxl psa_llm "$@"
