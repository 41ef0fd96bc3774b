#!/usr/bin/env bash
# A ViT on CIFAR-10 rows: all methods, and MEFT3 with lambda and beta of 1/100; one seed, two epochs.
# bf16, which halves a step on CPUs that have it. With ViT-Tiny and 2,000 images about 7 x 8 minutes on one CPU core.
# Usage: scripts/cifar_vit.sh FOLDER_OF_THE_VIT FOLDER_WITH_train.npz_AND_test.npz
set -euo pipefail
common=(backbone=vit "backbone.path=$1" task=cifar10 "task.data_dir=$2" training.epochs=2 training.precision=bf16
  output_dir=runs/cifar)
meft-run -m "${common[@]}" method=full,lora,ia3,meft1,meft2,meft3
meft-run "${common[@]}" method=meft3 method.scale_1=1/100 method.scale_2=1/100
meft-tables output_dir=runs/cifar tables_dir=results/cifar_vit
