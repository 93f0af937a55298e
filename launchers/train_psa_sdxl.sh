#!/usr/bin/env bash
# Trains an adapter for SDXL. Without variables it fetches the published captions and the base first.
# Optional environment variables (docs/TRAINING.md): DATA=data/sage, EMBEDS=data/embeddings/sage, SD_MODEL,
# BATCH_SIZE, MAX_STEPS, LR, OUT, ...
exec "$(dirname "${BASH_SOURCE[0]}")/train.sh" sdxl "$@"
