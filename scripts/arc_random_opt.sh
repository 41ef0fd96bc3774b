#!/usr/bin/env bash
# A small OPT with random weights on arc_easy: MEFT1 against full fine-tuning. Nothing is pre-trained: what is compared
# is how the training loss falls, not the score. About 2 x 4 minutes on one CPU core.
# Usage: scripts/arc_random_opt.sh FOLDER_WITH_train.jsonl_AND_validation.jsonl
set -euo pipefail
python scripts/random_opt.py runs/random_opt "$1/train.jsonl"
common=(backbone=opt_125m backbone.path=runs/random_opt task=arc_easy "task.data_dir=$1" training.epochs=8
  output_dir=runs/arc)
meft-run "${common[@]}" method=full training.learning_rate=1e-3
meft-run "${common[@]}" method=meft1 training.learning_rate=1e-2
meft-tables output_dir=runs/arc tables_dir=results/arc_random_opt
