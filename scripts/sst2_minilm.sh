#!/usr/bin/env bash
# minilm on the first 6,000 training rows of SST-2: all methods, one seed, two epochs.
# About 6 x 4 minutes on one CPU core each. Usage: scripts/sst2_minilm.sh FOLDER_WITH_train.jsonl_AND_validation.jsonl
set -euo pipefail
meft-run -m backbone=minilm task=sst2 "task.data_dir=$1" task.max_train_rows=6000 training.epochs=2 \
  method=full,lora,ia3,meft1,meft2,meft3 output_dir=runs/sst2
meft-tables output_dir=runs/sst2 tables_dir=results/sst2_minilm
