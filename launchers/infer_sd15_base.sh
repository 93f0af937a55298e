#!/usr/bin/env bash
# Generates pictures with SD1.5, without an adapter.
# Optional environment variables (docs/GENERATE.md): META_FILE, SD_MODEL, OUT, ...
exec "$(dirname "${BASH_SOURCE[0]}")/infer.sh" sd15 base "$@"
