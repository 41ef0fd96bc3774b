"""Classifying images: from the hub, from arrays in `<split>.npz`, or from folders `<split>/<class>/`.

Every source is brought into one form: `pixel_values`, which holds images, and `labels`, which holds class numbers.
The images have that name before they are pixel values because the Trainer drops every column that the model's forward
does not take; the collator makes of them what the name says.
"""

import glob
import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import torch
from transformers import BaseImageProcessor, EvalPrediction

from meft_runner.config import Head, ImageSettings
from meft_runner.errors import UserError, listed, nearest
from meft_runner.tasks.data import Batch, EvalSplit, Row, TaskData, row_limits
from meft_runner.tasks.description import check_evaluation_labels, check_training_labels, describe, labels_text
from meft_runner.tasks.metrics import compute_metrics
from meft_runner.tasks.rows import check_columns, load_hub_split, origin, split_path

VERSION = 1  # of the images that training gets; raised when the same files become other ones
_METRIC = "accuracy"
_LARGEST_LABEL = 99_999  # that counts as a class number where classes have no names; ImageNet-21k has 21,841 classes
_TABLE_ROWS = 100  # arrays are stored in tables of so many: one Arrow table is filled with at most 2 GiB
_ENCODED, _DECODED = datasets.Image(decode=False), datasets.Image()
_FEATURES = datasets.Features({"pixel_values": _ENCODED, "labels": datasets.Value("int64")})


@dataclass(frozen=True)
class _Split:
    """The images of a split that are used.

    Attributes:
        rows: `pixel_values`, images as {"bytes", "path"}, and `labels`.
        class_names: what the labels stand for, as far as the source knows.
        where: the file, the folder or the part of the hub's repository.
        revision: the repository's commit; None for a folder.
    """

    rows: datasets.Dataset
    class_names: Sequence[str]
    where: str
    revision: str | None = None


def load(task: ImageSettings, processor: BaseImageProcessor) -> TaskData:
    """Reads and checks labelled images; each that is used is decoded once before training starts.

    Args:
        task: where they are.
        processor: scales and normalises (H, W, 3) images to (3, height, width) pixel values.

    Raises:
        UserError: a split is missing, unreachable or empty, an image cannot be decoded, or a label has no class.
    """
    splits: dict[str, _Split] = {}
    classes = list(task.classes)
    for split, limit in row_limits(task).items():  # the training split comes first and names the classes
        splits[split] = _read(task, split, limit, classes)
        classes = classes or list(splits[split].class_names)
    if len(classes) < 2:
        raise UserError(
            f"{splits[task.train_split].where}: found {len(classes)} class names, expected two or more. "
            "Add images of other classes, or name all in task.classes=[...]."
        )
    checked = {name: _checked_rows(split, len(classes)) for name, split in splits.items()}
    check_training_labels(task, classes, checked[task.train_split], splits[task.train_split].where)
    for split in task.eval_splits:
        check_evaluation_labels(task, classes, checked[split], splits[split].where)
    rows = {name: split.rows.cast_column("pixel_values", _DECODED) for name, split in splits.items()}
    return TaskData(
        head=Head.image,
        classes=classes,
        train=rows[task.train_split],
        evaluation={split: EvalSplit(rows[split], _score) for split in task.eval_splits},
        metric=_METRIC,
        collate=_collator(processor),
        description=describe(
            task,
            VERSION,
            task.data_dir or task.hub,
            checked,
            revision=splits[task.train_split].revision,
            labels=labels_text(classes, checked[task.train_split]),
            classes=classes,
        ),
    )


def _read(task: ImageSettings, split: str, limit: int | None, classes: Sequence[str]) -> _Split:
    if task.data_dir is None:
        if not task.hub:
            raise UserError("task.data_dir: not given. Give the folder that holds train/<class>/ and test/<class>/.")
        found = _read_hub(task, split, limit)
    elif (path := split_path(task, split, f"{split}.npz", split)).is_dir():
        found = _read_folder(path, limit, classes)
    else:
        found = _read_arrays(path, limit)
    if not len(found.rows):
        raise UserError(
            f"{found.where}: holds no images. Add them, those of a class in a folder of its own, or as .npz."
        )
    return found


def _read_hub(task: ImageSettings, split: str, limit: int | None) -> _Split:
    where, names = origin(task, split), [task.image_column, task.label_column]
    rows, revision = load_hub_split(task, split, limit)
    check_columns(rows.features, names, where)
    if not isinstance(rows.features[task.image_column], datasets.Image):
        raise UserError(f"{where}: column '{task.image_column}' holds no images. Set task.image_column=NAME.")
    rows = rows.select_columns(names).rename_columns(dict(zip(names, _FEATURES, strict=True)))
    class_names = getattr(rows.features["labels"], "names", [])
    return _Split(rows.cast_column("pixel_values", _ENCODED), class_names, where, revision)


def _read_folder(folder: Path, limit: int | None, classes: Sequence[str]) -> _Split:
    files = _image_files(folder)
    names = sorted({file.parent.name for file in files})
    classes = classes or names
    numbers = {name: number for number, name in enumerate(classes)}
    for name in names:
        if name not in numbers:
            raise UserError(
                f"{folder / name}: '{name}' is not among the {len(classes)} classes of the training split or "
                f"task.classes, {nearest(name, classes)}expected {listed(classes)}. Rename or remove that folder."
            )
    chosen = _spread(files, limit)
    labels = [numbers[file.parent.name] for file in chosen]
    return _Split(_table([str(file) for file in chosen], labels), names, str(folder))


def _image_files(folder: Path) -> list[Path]:
    """Returns the image files in `<folder>/<class>/`, sorted; hidden files and folders are not looked at."""
    # Not by the datasets library's imagefolder: it passes over linked folders and stumbles over a metadata.csv,
    # and over names that it takes for splits, as in test_1.png.
    suffixes = {suffix for suffix, kind in PIL.Image.registered_extensions().items() if kind in PIL.Image.OPEN}
    files = [folder / name for name in glob.glob("*/*", root_dir=folder)]
    return sorted(file for file in files if file.suffix.lower() in suffixes)


def _spread(files: list[Path], limit: int | None) -> list[Path]:
    """Returns `limit` files at even distances: they are sorted by class, so the first ones would be of one class."""
    if limit is None or limit >= len(files):
        return files
    return [files[i * len(files) // limit] for i in range(limit)]


def _read_arrays(path: Path, limit: int | None) -> _Split:
    images, labels = _load_arrays(path)
    _check_arrays(images, labels, path)
    class_names = [str(i) for i in range(min(int(labels.max(initial=0)), _LARGEST_LABEL) + 1)]
    images, labels = images[:limit], labels[:limit].astype(np.int64)
    parts = [slice(start, start + _TABLE_ROWS) for start in range(0, len(labels) or 1, _TABLE_ROWS)]
    tables = [_table([_bitmap(image) for image in images[part]], labels[part]) for part in parts]
    return _Split(datasets.concatenate_datasets(tables), class_names, str(path))


def _load_arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            check_columns(dict.fromkeys(arrays.files), ["images", "labels"], str(path))
            return arrays["images"], arrays["labels"]
    except UserError:
        raise
    except Exception as error:  # a damaged archive can raise anything, tokenize's errors among them
        raise UserError(
            f"{path}: not an .npz file of plain arrays ({type(error).__name__}). "
            "Write it with numpy.savez(path, images=..., labels=...)."
        ) from error


def _check_arrays(images: np.ndarray, labels: np.ndarray, path: Path) -> None:
    channels = images.shape[3:]
    if images.dtype != np.uint8 or images.ndim < 3 or channels not in ((), (3,)) or 0 in images.shape[1:]:
        raise UserError(
            f"{path}: images is {images.dtype} {images.shape}. Convert it to uint8 (N, H, W, 3), or (N, H, W) for grey."
        )
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise UserError(f"{path}: labels is {labels.dtype} {labels.shape}. Convert it to whole numbers of shape (N,).")
    if len(images) != len(labels):
        raise UserError(f"{path}: {len(images)} images but {len(labels)} labels. Write one label for each image.")


def _table(images: Sequence[str | bytes], labels: Sequence[int] | np.ndarray) -> datasets.Dataset:
    """Returns image files, named or given, with their labels as a data set."""
    return datasets.Dataset.from_dict({"pixel_values": images, "labels": labels}, _FEATURES)


def _bitmap(image: np.ndarray) -> bytes:
    """Returns an image file: BMP, whose bytes do not depend on the version of a compression library as PNG's do."""
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, "BMP")
    return file.getvalue()


def _checked_rows(split: _Split, classes: int) -> list[Row]:
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
        checked.append({"image": _image_digest(image, where), "label": label})
    return checked


def _image_digest(image: Row, where: str) -> str:
    try:
        content = Path(image["path"]).read_bytes() if image["bytes"] is None else image["bytes"]
        decoded = _DECODED.decode_example({"bytes": content, "path": None})
        decoded.convert("RGB")
    except Exception as error:  # a broken file can raise anything: every format has a reader of its own
        raise UserError(
            f"{where}: not an image, or one that is cut short ({type(error).__name__}). Replace or remove it."
        ) from error
    if decoded.mode.startswith(("I", "F")):
        raise UserError(f"{where}: has more than 8 bits a channel, which would be clipped. Save it with 8 bits.")
    return hashlib.sha256(content).hexdigest()


def _collator(processor: BaseImageProcessor) -> Callable[..., Batch]:
    def collate(rows: list[Row], to_maximum: bool = False) -> Batch:
        """Makes a batch: `pixel_values` (B, 3, height, width), always of the processor's size, and `labels` (B,)."""
        images = [row["pixel_values"].convert("RGB") for row in rows]
        pixel_values = processor(images=images, return_tensors="pt")["pixel_values"]
        return {"pixel_values": pixel_values, "labels": torch.tensor([row["labels"] for row in rows])}

    return collate


def _score(prediction: EvalPrediction) -> dict[str, float]:
    logits = np.asarray(prediction.predictions)
    return compute_metrics([_METRIC], logits.shape[-1], logits.argmax(axis=-1), np.asarray(prediction.label_ids))
