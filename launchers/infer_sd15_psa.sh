#!/usr/bin/env bash
# [META_FILE=prompts.csv] [PSA_PATH=trained_models/psa-sd15] [EMBEDS=...] [LEVEL=3] [SD_MODEL=...] [OUT=...] launchers/infer_sd15_psa.sh
exec "$(dirname "${BASH_SOURCE[0]}")/infer.sh" sd15 psa "$@"
