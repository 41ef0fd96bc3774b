#!/usr/bin/env bash
# minilm on SQuAD v1.1: MEFT1 and full fine-tuning on 3,000 questions, scored on 1,000; one seed, three epochs, bf16.
# About 2 x 25 minutes on one CPU core. Usage: scripts/squad_minilm.sh FOLDER_WITH_train.jsonl_AND_validation.jsonl
set -euo pipefail
meft-run -m backbone=minilm task=squad "task.data_dir=$1" task.max_train_rows=3000 task.max_eval_rows=1000 \
  training.epochs=3 training.precision=bf16 method=full,meft1 output_dir=runs/squad
meft-tables output_dir=runs/squad tables_dir=results/squad_minilm
