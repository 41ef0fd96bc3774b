#!/usr/bin/env bash
# minilm on RTE: all methods, and MEFT1 and MEFT3 with the published arithmetic; two seeds, two epochs.
# About 16 x 5 minutes on one CPU core each. Usage: scripts/rte_minilm.sh FOLDER_WITH_train.jsonl_AND_validation.jsonl
set -euo pipefail
common=(backbone=minilm task=rte "task.data_dir=$1" training.epochs=2 seed=1,2 output_dir=runs/rte)
meft-run -m "${common[@]}" method=full,lora,ia3,meft1,meft2,meft3
meft-run -m "${common[@]}" method=meft1,meft3 method.reversal=float
meft-tables output_dir=runs/rte tables_dir=results/rte_minilm
