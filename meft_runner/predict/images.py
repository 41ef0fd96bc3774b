"""Images that get a class: files that a table names, images inside it, or a split of the run's task."""

from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
from transformers import BaseImageProcessor

from meft_runner.config import ImageSettings
from meft_runner.errors import UserError
from meft_runner.predict.answering import Answering
from meft_runner.predict.classes import Label, of_logits
from meft_runner.predict.labels import known_label
from meft_runner.tasks.data import Row, row_limits
from meft_runner.tasks.image_sources import read_images
from meft_runner.tasks.images import DECODED, METRIC, image_collator, image_digest
from meft_runner.tasks.language_rows import Placed
from meft_runner.tasks.rows import check_columns


def ask_images(
    task: ImageSettings, processor: BaseImageProcessor, classes: Sequence[str], rows: Sequence[Placed], folder: Path
) -> Answering:
    """Returns images as model inputs, each decoded once before anything is run.

    Args:
        task: names the columns.
        processor: makes pixel values of images.
        classes: class names in label order.
        rows: with the path of an image, or an image as {"bytes", "path"} as Parquet files of the hub have it.
        folder: where relative paths start.

    Raises:
        UserError: an image cannot be read, or a label is none of the run's.
    """
    for each in rows:
        check_columns(each.row, [task.image_column], each.where)
    images = [_image(each.row[task.image_column], folder, each.where) for each in rows]
    labels = [known_label(each.row.get(task.label_column), classes, each.where) for each in rows]
    _digests(images, [each.where for each in rows])
    return _answering(images, processor, classes, labels)


def ask_split(
    task: ImageSettings, processor: BaseImageProcessor, classes: Sequence[str], split: str
) -> tuple[list[Placed], Answering]:
    """Returns the images of a split of the task, as records know them and as model inputs.

    Raises:
        UserError: it is missing or unreachable, or an image cannot be read.
    """
    found = read_images(task, split, row_limits(task).get(split), classes)
    rows = found.rows.to_list()
    places = [f"{found.where}, row {number}" for number in range(1, len(rows) + 1)]
    numbers = [str(number) for number in range(len(classes))]  # which is what the labels of a split are
    labels = [known_label(row["labels"], numbers, where) for row, where in zip(rows, places, strict=True)]
    images = [row["pixel_values"] for row in rows]
    known = zip(_digests(images, places), rows, places, strict=True)
    placed = [Placed({"image": digest, "label": row["labels"]}, where) for digest, row, where in known]
    return placed, _answering(images, processor, classes, labels)


def _digests(images: Sequence[Row], places: Sequence[str]) -> list[str]:
    """Returns a digest of each image, which is decoded once for it, so that broken ones are told before any is run."""
    pairs = zip(images, places, strict=True)
    return [image_digest(image, image["path"] if image["bytes"] is None else where) for image, where in pairs]


def _answering(
    images: Sequence[Row], processor: BaseImageProcessor, classes: Sequence[str], labels: Sequence[Label]
) -> Answering:
    features = datasets.Features({"pixel_values": DECODED})
    inputs = datasets.Dataset.from_dict({"pixel_values": images}, features)
    return of_logits(inputs, image_collator(processor), np.arange(len(images)), classes, [METRIC], labels)


def _image(value: object, folder: Path, where: str) -> Row:
    if isinstance(value, str) and value:
        return {"bytes": None, "path": str(folder / value)}
    if isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
        return {"bytes": value["bytes"], "path": None}
    raise UserError(f"{where}: its image is {value!r:.60}, expected the path of a file. Mend or remove that row.")
