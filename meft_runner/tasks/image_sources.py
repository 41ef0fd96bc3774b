"""The three sources of images: the hub, arrays in `<split>.npz`, and folders `<split>/<class>/`.

Each is brought into one form: `pixel_values`, which holds image files, and `labels`, which holds class numbers.
"""

import glob
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import psutil

from meft_runner.config import ImageSettings
from meft_runner.errors import UserError, listed, nearest
from meft_runner.tasks.rows import check_columns, load_hub_split, origin, split_path

TABLE_ROWS = 100  # arrays are stored in tables of so many: one Arrow table is filled with at most 2 GiB
_LARGEST_LABEL = 99_999  # that counts as a class number where classes have no names; ImageNet-21k has 21,841 classes
_ENCODED = datasets.Image(decode=False)
_FEATURES = datasets.Features({"pixel_values": _ENCODED, "labels": datasets.Value("int64")})


@dataclass(frozen=True)
class ImageSplit:
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


def read_images(task: ImageSettings, split: str, limit: int | None, classes: Sequence[str]) -> ImageSplit:
    """Reads a split from where the task has it.

    Args:
        task: where it is.
        split: its name.
        limit: how many images are used; None for all.
        classes: class names in label order, as far as they are known.

    Raises:
        UserError: it is missing, unreachable or empty, or is not what its place promises.
    """
    if task.data_dir is None:
        if not task.hub:
            raise UserError("task.data_dir: not given. Give the folder that holds train/<class>/ and test/<class>/.")
        found = _read_hub(task, split, limit)
    elif (path := split_path(task, split, f"{split}.npz", split)).is_dir():
        found = _read_folder(path, limit, classes)
    elif path.with_suffix("").exists():
        raise UserError(f"task.data_dir={task.data_dir}: {path.name} and {split} are both there. Remove one of them.")
    else:
        found = _read_arrays(path, limit)
    if not len(found.rows):
        raise UserError(
            f"{found.where}: holds no images. Add them, those of a class in a folder of its own, or as .npz."
        )
    return found


def _read_hub(task: ImageSettings, split: str, limit: int | None) -> ImageSplit:
    where, names = origin(task, split), [task.image_column, task.label_column]
    rows, revision = load_hub_split(task, split, limit)
    check_columns(rows.features, names, where)
    if not isinstance(rows.features[task.image_column], datasets.Image):
        raise UserError(f"{where}: column '{task.image_column}' holds no images. Set task.image_column=NAME.")
    rows = rows.select_columns(names).rename_columns(dict(zip(names, _FEATURES, strict=True)))
    class_names = getattr(rows.features["labels"], "names", [])
    return ImageSplit(rows.cast_column("pixel_values", _ENCODED), class_names, where, revision)


def _read_folder(folder: Path, limit: int | None, classes: Sequence[str]) -> ImageSplit:
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
    return ImageSplit(_table([str(file) for file in chosen], labels), names, str(folder))


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


def _read_arrays(path: Path, limit: int | None) -> ImageSplit:
    images, labels = _load_arrays(path)
    _check_arrays(images, labels, path)
    class_names = [str(i) for i in range(min(int(labels.max(initial=0)), _LARGEST_LABEL) + 1)]
    images, labels = images[:limit], labels[:limit].astype(np.int64)
    parts = [slice(start, start + TABLE_ROWS) for start in range(0, len(labels) or 1, TABLE_ROWS)]
    tables = [_table([_bitmap(image) for image in images[part]], labels[part]) for part in parts]
    return ImageSplit(datasets.concatenate_datasets(tables), class_names, str(path))


def _load_arrays(path: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            check_columns(dict.fromkeys(arrays.files), ["images", "labels"], str(path))
            _check_size(sum(file.file_size for file in arrays.zip.infolist()), path)
            return arrays["images"], arrays["labels"]
    except UserError:
        raise
    except Exception as error:  # a damaged archive can raise anything, tokenize's errors among them
        raise UserError(
            f"{path}: not an .npz file of plain arrays ({type(error).__name__}). "
            "Write it with numpy.savez(path, images=..., labels=...)."
        ) from error


def _check_size(unpacked: int, path: Path) -> None:
    """Makes sure that arrays fit in memory: a small archive can hold large ones."""
    free = psutil.virtual_memory().available
    if unpacked > free:
        raise UserError(
            f"{path}: takes {unpacked / 2**30:.1f} GiB when it is unpacked, and {free / 2**30:.1f} GiB of memory are "
            "free. Write smaller arrays, or image files in folders."
        )


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
