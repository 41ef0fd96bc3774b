#!/usr/bin/env bash
# minilm on CoLA: all methods, the first 6,000 training rows, one seed, three epochs.
# About 6 x 5 minutes on one CPU core each. Usage: scripts/cola_minilm.sh FOLDER_WITH_train.jsonl_AND_validation.jsonl
set -euo pipefail
meft-run -m backbone=minilm task=cola "task.data_dir=$1" task.max_train_rows=6000 task.max_length=64 training.epochs=3 \
  method=full,lora,ia3,meft1,meft2,meft3 output_dir=runs/cola
meft-tables output_dir=runs/cola tables_dir=results/cola_minilm
