#!/usr/bin/env bash
# Generates pictures with SDXL and an adapter, for users with stored vectors or for one LEVEL.
# Optional environment variables (docs/GENERATE.md): META_FILE, PSA_PATH, EMBEDS, LEVEL=3, SD_MODEL, OUT, ...
exec "$(dirname "${BASH_SOURCE[0]}")/infer.sh" sdxl psa "$@"
