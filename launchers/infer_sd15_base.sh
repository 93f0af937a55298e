#!/usr/bin/env bash
# [META_FILE=prompts.csv] [SD_MODEL=...] [OUT=...] launchers/infer_sd15_base.sh
exec "$(dirname "${BASH_SOURCE[0]}")/infer.sh" sd15 base "$@"
