#!/usr/bin/env bash
# Generates pictures with SDXL, without an adapter.
# Optional environment variables (docs/GENERATE.md): META_FILE, SD_MODEL, OUT, ...
exec "$(dirname "${BASH_SOURCE[0]}")/infer.sh" sdxl base "$@"
