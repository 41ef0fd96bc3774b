"""Classifying images: each is checked before training, and becomes pixel values when its batch is made.

The column of images is called `pixel_values` before its images are that, because the Trainer drops every column that
the model's forward does not take; the collator makes of them what the name says.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import torch
from transformers import BaseImageProcessor, EvalPrediction

from meft_runner.config import Head, ImageSettings
from meft_runner.errors import UserError
from meft_runner.tasks.data import Batch, EvalSplit, Row, TaskData, row_limits
from meft_runner.tasks.description import describe_labelled
from meft_runner.tasks.image_sources import ImageSplit, read_images
from meft_runner.tasks.metrics import compute_metrics

METRIC = "accuracy"
DECODED = datasets.Image()


def load(task: ImageSettings, processor: BaseImageProcessor) -> TaskData:
    """Reads and checks labelled images; each that is used is decoded once before training starts.

    Args:
        task: where they are.
        processor: scales and normalises (H, W, 3) images to (3, height, width) pixel values.

    Raises:
        UserError: a split is missing, unreachable or empty, an image cannot be decoded, or a label has no class.
    """
    splits: dict[str, ImageSplit] = {}
    classes = list(task.classes)
    for split, limit in row_limits(task).items():  # the training split comes first and names the classes
        splits[split] = read_images(task, split, limit, classes)
        classes = classes or list(splits[split].class_names)
    if len(classes) < 2:
        raise UserError(
            f"{splits[task.train_split].where}: found {len(classes)} class names, expected two or more. "
            "Add images of other classes, or name all in task.classes=[...]."
        )
    checked = {name: _checked_rows(split, len(classes)) for name, split in splits.items()}
    places, revision = {name: split.where for name, split in splits.items()}, splits[task.train_split].revision
    description = describe_labelled(task, task.data_dir or task.hub, classes, checked, places, revision=revision)
    rows = {name: split.rows.cast_column("pixel_values", DECODED) for name, split in splits.items()}
    return TaskData(
        head=Head.image,
        classes=classes,
        train=rows[task.train_split],
        evaluation={split: EvalSplit(rows[split], _score) for split in task.eval_splits},
        metric=METRIC,
        collate=image_collator(processor),
        description=description | {"classes": classes},
    )


def _checked_rows(split: ImageSplit, classes: int) -> list[Row]:
    """Returns what the fingerprint is made of.

    Raises:
        UserError: an image cannot be decoded, or a label is not the number of one of `classes` classes.
    """
    checked = []
    for number, row in enumerate(split.rows, start=1):
        image, label = row["pixel_values"] or {"bytes": b""}, row["labels"]
        where = image["path"] if image["bytes"] is None else f"{split.where}, row {number}"
        if type(label) is not int or not 0 <= label < classes:
            raise UserError(
                f"{where}: label {label!r} is not the number of a class, expected 0 to {classes - 1}. "
                "Mend or remove that row, or name all classes in task.classes=[...]."
            )
        checked.append({"image": image_digest(image, where), "label": label})
    return checked


def image_digest(image: Row, where: str) -> str:
    """Decodes an image once, {"bytes", "path"}, and returns a digest of its file.

    Raises:
        UserError: it cannot be decoded, or has more than 8 bits a channel.
    """
    if image["bytes"] is None and not Path(image["path"]).is_file():  # a pipe would be waited for
        raise UserError(f"{where}: not a file, or a link to nothing. Replace or remove it.")
    try:
        content = Path(image["path"]).read_bytes() if image["bytes"] is None else image["bytes"]
        decoded = DECODED.decode_example({"bytes": content, "path": None})
        decoded.convert("RGB")
    except Exception as error:  # a broken file can raise anything: every format has a reader of its own
        raise UserError(
            f"{where}: not an image, or one that is cut short ({type(error).__name__}). Replace or remove it."
        ) from error
    if decoded.mode.startswith(("I", "F")):
        raise UserError(f"{where}: has more than 8 bits a channel, which would be clipped. Save it with 8 bits.")
    return hashlib.sha256(content).hexdigest()


def image_collator(processor: BaseImageProcessor) -> Callable[..., Batch]:
    """Returns what makes a batch of images, with their labels where they have some."""

    def collate(rows: list[Row], to_maximum: bool = False) -> Batch:
        """Makes a batch: `pixel_values` (B, 3, height, width), always of the processor's size, and `labels` (B,)."""
        images = [row["pixel_values"].convert("RGB") for row in rows]
        pixel_values = processor(images=images, return_tensors="pt")["pixel_values"]
        labels = {"labels": torch.tensor([row["labels"] for row in rows])} if "labels" in rows[0] else {}
        return {"pixel_values": pixel_values} | labels

    return collate


def _score(prediction: EvalPrediction) -> dict[str, float]:
    logits = np.asarray(prediction.predictions)
    return compute_metrics([METRIC], logits.shape[-1], logits.argmax(axis=-1), np.asarray(prediction.label_ids))
