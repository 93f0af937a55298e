#!/usr/bin/env bash
# [META_FILE=prompts.csv] [PSA_PATH=trained_models/psa-sdxl] [EMBEDS=...] [LEVEL=3] [SD_MODEL=...] [OUT=...] launchers/infer_sdxl_psa.sh
exec "$(dirname "${BASH_SOURCE[0]}")/infer.sh" sdxl psa "$@"
