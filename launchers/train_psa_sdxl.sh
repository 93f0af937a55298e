#!/usr/bin/env bash
# Bare: fetches the published captions and the base, trains, draws a sheet. All of this may be given:
# DATA=data/sage EMBEDS=data/embeddings/sage [SD_MODEL=...] [BATCH_SIZE=...] [MAX_STEPS=...] [LR=...] [OUT=...] launchers/train_psa_sdxl.sh
exec "$(dirname "${BASH_SOURCE[0]}")/train.sh" sdxl "$@"
