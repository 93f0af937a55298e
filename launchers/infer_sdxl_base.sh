#!/usr/bin/env bash
# [META_FILE=prompts.csv] [SD_MODEL=...] [OUT=...] launchers/infer_sdxl_base.sh
exec "$(dirname "${BASH_SOURCE[0]}")/infer.sh" sdxl base "$@"
