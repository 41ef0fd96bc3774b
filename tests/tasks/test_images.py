import contextlib
import inspect
import io
import os
import zipfile

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import EvalPrediction, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from meft_runner.config import Head, ImageSettings
from meft_runner.errors import UserError
from meft_runner.tasks import image_sources
from meft_runner.tasks.images import load

PROCESSOR = ViTImageProcessorPil(size={"height": 8, "width": 8})
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])
NAMES = ["ant", "bee", "cat"]


def task(folder=None, **kwargs):
    defaults = {"name": "images", "hub": "someone/animals", "eval_splits": ["test"]}
    return ImageSettings(**defaults | {"data_dir": folder and str(folder)} | kwargs)


def write_arrays(folder, split="train", **arrays):
    folder.mkdir(exist_ok=True)
    np.savez(folder / f"{split}.npz", **{"images": IMAGES, "labels": LABELS} | arrays)


def write_files(folder, names=NAMES, images=IMAGES, labels=LABELS, splits=("train", "test")):
    for split in splits:
        for number, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / split / names[label] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)


def hub_rows(images=IMAGES, labels=LABELS, label=None):
    label = label or datasets.ClassLabel(names=NAMES)
    features = datasets.Features({"id": datasets.Value("int64"), "image": datasets.Image(), "label": label})
    return datasets.Dataset.from_dict(
        {"id": range(len(images)), "image": list(images), "label": list(labels)}, features=features
    )


def load_from_hub(monkeypatch, rows, **kwargs):
    monkeypatch.setattr(
        image_sources, "load_hub_split", lambda task, split, limit: (rows.select(range(limit or 6)), "commit")
    )
    return load(task(**kwargs), PROCESSOR)


def pixels(data, rows=None):
    rows = data.train if rows is None else rows
    return data.collate([rows[i] for i in range(len(rows))])["pixel_values"]


def by_class(images=IMAGES):
    return images[np.argsort(LABELS, kind="stable")]


@pytest.fixture
def arrays(tmp_path):
    for split in ("train", "test"):
        write_arrays(tmp_path, split)
    return tmp_path


@pytest.fixture
def files(tmp_path):
    write_files(tmp_path)
    return tmp_path


def test_arrays(arrays):
    data = load(task(arrays), PROCESSOR)
    assert (data.head, data.metric, data.classes) == (Head.image, "accuracy", ["0", "1", "2"])
    assert data.train["labels"] == data.evaluation["test"].rows["labels"] == LABELS.tolist()
    assert [np.array(image).tolist() for image in data.train["pixel_values"]] == IMAGES.tolist()
    assert load(task(arrays, classes=NAMES), PROCESSOR).classes == NAMES


def test_files_in_folders(files):
    data = load(task(files), PROCESSOR)
    assert data.classes == NAMES
    assert data.train["labels"] == [0, 0, 1, 1, 2, 2]
    assert [np.array(image).tolist() for image in data.train["pixel_values"]] == by_class().tolist()


def test_the_hub(monkeypatch):
    data = load_from_hub(monkeypatch, hub_rows(), max_train_rows=4)
    assert data.classes == NAMES
    assert data.train["labels"] == [0, 1, 2, 0]
    assert data.train.column_names == ["pixel_values", "labels"]
    assert (data.description["source"], data.description["revision"]) == ("someone/animals", "commit")


def test_the_hub_under_other_names(monkeypatch):
    rows = hub_rows(label=datasets.Value("int64")).rename_columns({"image": "img", "label": "fine"})
    data = load_from_hub(monkeypatch, rows, image_column="img", label_column="fine", classes=["a", "b", "c", "d"])
    assert data.classes == ["a", "b", "c", "d"]
    assert data.train["labels"] == LABELS.tolist()


def test_all_sources_give_the_same_pixel_values(tmp_path, monkeypatch):
    for split in ("train", "test"):
        write_arrays(tmp_path / "arrays", split, images=by_class(), labels=np.sort(LABELS))
    write_files(tmp_path / "files")
    of_files = pixels(load(task(tmp_path / "files"), PROCESSOR))
    assert torch.equal(pixels(load(task(tmp_path / "arrays"), PROCESSOR)), of_files)
    assert torch.equal(pixels(load_from_hub(monkeypatch, hub_rows(by_class(), np.sort(LABELS)))), of_files)


def test_the_trainer_keeps_every_column(arrays):
    data = load(task(arrays), PROCESSOR)
    taken = inspect.signature(ViTForImageClassification.forward).parameters
    assert set(data.train.column_names) == {"pixel_values", "labels"} <= set(taken)


def test_a_batch(arrays):
    data = load(task(arrays), PROCESSOR)
    batch = data.collate([data.train[i] for i in (2, 0, 1, 5)])
    assert batch["pixel_values"].shape == (4, 3, 8, 8)
    assert batch["pixel_values"].dtype == torch.float32
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].tolist() == [2, 0, 1, 2]
    assert torch.equal(data.collate([data.train[2]], to_maximum=True)["pixel_values"], batch["pixel_values"][:1])


def test_pixel_values_are_scaled_to_one_around_zero(arrays):
    white, black = np.full((2, 8, 8, 3), [[[[255]]], [[[0]]]], dtype=np.uint8)
    write_arrays(arrays, images=np.stack([white, black]), labels=np.array([0, 1]))
    data = load(task(arrays, classes=NAMES), PROCESSOR)
    assert pixels(data).flatten(1).unique(dim=1).tolist() == [[1.0], [-1.0]]


def test_the_score_is_the_share_of_right_classes(arrays):
    score = load(task(arrays), PROCESSOR).evaluation["test"].score
    logits = np.array([[0.1, 0.9, 0.0], [3.0, 2.0, 1.0], [0.0, 0.0, 1.0]])
    assert score(EvalPrediction(logits, np.array([1, 0, 1]))) == {"accuracy": pytest.approx(2 / 3)}


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_images_of_every_mode_become_rgb(files, mode):
    image = Image.fromarray(IMAGES[0]).convert(mode)
    image.save(files / "train" / "ant" / "0.tiff")
    (files / "train" / "ant" / "0.png").unlink()
    data = load(task(files), PROCESSOR)
    assert data.train[0]["pixel_values"].mode == mode
    expected = PROCESSOR(images=[image.convert("RGB")], return_tensors="pt")["pixel_values"]
    assert torch.equal(data.collate([data.train[0]])["pixel_values"], expected)


def test_grey_arrays(arrays):
    write_arrays(arrays, images=IMAGES[..., 0])
    grey = pixels(load(task(arrays), PROCESSOR))
    write_arrays(arrays, images=IMAGES[..., [0, 0, 0]])
    assert torch.equal(grey, pixels(load(task(arrays), PROCESSOR)))


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint64, ">i2"])
def test_labels_of_every_integer_type(arrays, dtype):
    write_arrays(arrays, labels=LABELS.astype(dtype))
    assert load(task(arrays), PROCESSOR).train["labels"] == LABELS.tolist()


def test_the_largest_label_of_a_small_type(arrays):
    write_arrays(arrays, labels=np.array([0, 1, 2, 0, 1, 255], dtype=np.uint8))
    assert len(load(task(arrays), PROCESSOR).classes) == 256


def test_arrays_of_several_tables(arrays, monkeypatch):
    monkeypatch.setattr(image_sources, "TABLE_ROWS", 4)
    data = load(task(arrays), PROCESSOR)
    assert data.train["labels"] == LABELS.tolist()
    assert np.array(data.train[5]["pixel_values"]).tolist() == IMAGES[5].tolist()


def test_classes_that_are_given_set_the_order_of_folders(files):
    data = load(task(files, classes=["cat", "dog", "bee", "ant"]), PROCESSOR)
    assert data.classes == ["cat", "dog", "bee", "ant"]
    assert data.train["labels"] == [3, 3, 2, 2, 0, 0]


def test_a_development_split_without_some_classes_keeps_their_numbers(tmp_path):
    write_files(tmp_path, splits=["train"])
    write_files(tmp_path, splits=["test"], labels=[2] * 6)
    assert load(task(tmp_path), PROCESSOR).evaluation["test"].rows["labels"] == [2] * 6


def test_names_that_could_be_taken_for_splits_and_patterns(tmp_path):
    folder = tmp_path / "[a]*"
    write_files(folder, ["test", "train", "validation"])
    for split in ("train", "test"):
        os.rename(folder / split / "train" / "1.png", folder / split / "train" / "test_1.png")
    data = load(task(folder), PROCESSOR)
    assert data.classes == ["test", "train", "validation"]
    assert data.train["labels"] == [0, 0, 1, 1, 2, 2]


def test_what_is_no_image_is_left_out(files):
    for name in ("notes.txt", "metadata.csv", "._0.png", "../.hidden/0.png", "../in_no_class.png", "deeper/0.png"):
        path = files / "train" / "ant" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("file_name,caption\n0.png,an ant\n")
    data = load(task(files), PROCESSOR)
    assert data.classes == NAMES
    assert len(data.train) == 6


def test_a_linked_folder_counts(files):
    (files / "train" / "bee").rename(files / "bee")
    (files / "train" / "bee").symlink_to(files / "bee")
    assert load(task(files), PROCESSOR).train["labels"] == [0, 0, 1, 1, 2, 2]


def test_suffixes_in_capitals(files):
    (files / "train" / "ant" / "0.png").rename(files / "train" / "ant" / "0.PNG")
    assert len(load(task(files), PROCESSOR).train) == 6


def test_limits_take_the_first_rows_of_arrays(arrays):
    data = load(task(arrays, max_train_rows=4, max_eval_rows=2), PROCESSOR)
    assert data.train["labels"] == [0, 1, 2, 0]
    assert data.evaluation["test"].rows["labels"] == [0, 1]
    assert data.classes == ["0", "1", "2"]
    assert len(load(task(arrays, max_train_rows=100), PROCESSOR).train) == 6


def test_limits_take_folders_evenly(files):
    data = load(task(files, max_train_rows=3, max_eval_rows=100), PROCESSOR)
    assert data.train["labels"] == [0, 1, 2]
    assert data.evaluation["test"].rows["labels"] == [0, 0, 1, 1, 2, 2]
    assert data.classes == NAMES


def test_the_record_names_classes_and_follows_pixels_and_labels(arrays):
    first = load(task(arrays), PROCESSOR).description
    assert first["classes"] == ["0", "1", "2"]
    assert first["source"] == str(arrays)
    assert first["splits"]["train"] == first["splits"]["test"]
    assert first["splits"]["train"]["rows"] == 6
    prints = {first["splits"]["train"]["fingerprint"]}
    changed = IMAGES.copy()
    changed[3, 0, 0, 0] ^= 1
    for other in ({"images": changed}, {"labels": LABELS[::-1]}, {"images": IMAGES[::-1]}):
        write_arrays(arrays, **other)
        prints.add(load(task(arrays), PROCESSOR).description["splits"]["train"]["fingerprint"])
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("arrays_given", "message"),
    [
        ({"images": IMAGES / 255}, r"train.npz: images is float64 \(6, 5, 7, 3\). Convert it to uint8 \(N, H, W, 3\)"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, r"images is uint8 \(6, 3, 5, 7\)"),
        ({"images": IMAGES[:, :0]}, r"images is uint8 \(6, 0, 7, 3\)"),
        ({"images": IMAGES[0, 0]}, r"images is uint8 \(7, 3\)"),
        ({"labels": LABELS.astype(float)}, r"labels is float64 \(6,\). Convert it to whole numbers"),
        ({"labels": LABELS[:, None]}, r"labels is int64 \(6, 1\)"),
        ({"labels": np.array(NAMES * 2)}, r"labels is <U3 \(6,\)"),
        ({"labels": LABELS[:4]}, r"train.npz: 6 images but 4 labels"),
        ({"images": IMAGES[:0], "labels": LABELS[:0]}, r"train.npz: holds no images"),
        ({"labels": LABELS - 1}, r"train.npz, row 1: label -1 is not the number of a class, expected 0 to 1"),
        ({"labels": LABELS * 10**9}, r"row 2: label 1000000000 is not .*, expected 0 to 99999"),
        ({"labels": LABELS * 0}, r"train.npz: found 1 class names, expected two or more"),
        ({"labels": np.array(NAMES * 2, dtype=object)}, r"train.npz: not an .npz file of plain arrays \(ValueError\)"),
    ],
)
def test_bad_arrays(arrays, arrays_given, message):
    write_arrays(arrays, **arrays_given)
    with pytest.raises(UserError, match=message):
        load(task(arrays), PROCESSOR)


def test_labels_beyond_the_classes(arrays):
    with pytest.raises(UserError, match=r"train.npz, row 3: label 2 is not .*, expected 0 to 1\. Mend .*task.classes"):
        load(task(arrays, classes=["ant", "bee"]), PROCESSOR)
    write_arrays(arrays, "test", labels=LABELS + 1)
    with pytest.raises(UserError, match=r"test.npz, row 3: label 3 is not .*, expected 0 to 2"):
        load(task(arrays), PROCESSOR)


def test_an_archive_without_labels(arrays):
    np.savez(arrays / "train.npz", images=IMAGES, y=LABELS)
    with pytest.raises(UserError, match=r"train.npz: column 'labels' is missing \(found: images, y\)"):
        load(task(arrays), PROCESSOR)


def an_npy_file():
    file = io.BytesIO()
    np.save(file, IMAGES)
    return file.getvalue()


@pytest.mark.parametrize("content", [b"", b"nothing of the kind", b"PK\x03\x04 broken", an_npy_file()])
def test_files_that_are_no_archives(arrays, content):
    (arrays / "train.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"train.npz: not an .npz file of plain arrays .* Write it with numpy.savez"):
        load(task(arrays), PROCESSOR)


def test_a_damaged_archive(arrays):
    intact = (arrays / "train.npz").read_bytes()
    for position in range(0, 300, 7):
        content = bytearray(intact)
        content[position] ^= 255
        (arrays / "train.npz").write_bytes(content)
        with contextlib.suppress(UserError):  # some bytes of an archive mean nothing
            load(task(arrays), PROCESSOR)


def test_an_archive_larger_than_memory_is_not_unpacked(arrays):
    """Zeros in an archive a thousandth of their size, a number of bytes that no machine has free."""
    shape = (2**20, 2**10, 2**10, 3)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(arrays / "train.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue())
        archive.writestr("labels.npy", b"")
        archive.infolist()[0].file_size = 3 * 2**40
    with pytest.raises(UserError, match=r"train.npz: takes 3072.0 GiB when it is unpacked, and [\d.]+ GiB .* are free"):
        load(task(arrays), PROCESSOR)


def test_one_split_in_two_forms(arrays, tmp_path):
    write_files(tmp_path)
    with pytest.raises(UserError, match=r"task.data_dir=.*: train.npz and train are both there. Remove one of them"):
        load(task(arrays), PROCESSOR)


@pytest.mark.parametrize("what", ["pipe", "folder", "link"])
def test_what_is_called_an_image_and_is_no_file(files, what):
    path = files / "train" / "ant" / "what.png"
    {"pipe": os.mkfifo, "folder": os.mkdir, "link": lambda path: os.symlink("nowhere", path)}[what](path)
    with pytest.raises(UserError, match=r"ant/what.png: not a file, or a link to nothing\. Replace or remove it"):
        load(task(files), PROCESSOR)


def test_classes_that_are_given_twice_or_are_nearly_the_same(arrays, files, caplog):
    for split in ("train", "test"):
        (files / split / "cat").rename(files / split / "Ant")
        (arrays / f"{split}.npz").unlink()
    assert len(load(task(files), PROCESSOR).classes) == 3
    assert "classes 'Ant' and 'ant' differ only in spelling" in caplog.text
    write_arrays(arrays / "npz")
    write_arrays(arrays / "npz", "test")
    with pytest.raises(UserError, match=r"task.classes: 'ant' is given twice"):
        load(task(arrays / "npz", classes=["ant", "bee", "ant"]), PROCESSOR)


def test_rows_of_one_class_that_a_limit_has_left(arrays):
    write_arrays(arrays, labels=np.sort(LABELS))
    with pytest.raises(UserError, match=r"all 2 rows have the label '0'\. Raise task.max_train_rows=2, or shuffle"):
        load(task(arrays, max_train_rows=2), PROCESSOR)


def test_a_missing_folder_and_a_missing_split(tmp_path):
    with pytest.raises(UserError, match="nowhere: no such folder"):
        load(task(tmp_path / "nowhere"), PROCESSOR)
    write_arrays(tmp_path)
    with pytest.raises(UserError, match=r"test.npz or test is missing \(found: train.npz\)"):
        load(task(tmp_path), PROCESSOR)


def test_a_folder_must_be_given_where_there_is_no_repository():
    with pytest.raises(UserError, match=r"task\.data_dir: not given"):
        load(ImageSettings("images", hub=""), PROCESSOR)


def test_a_folder_without_images(tmp_path):
    (tmp_path / "train" / "ant").mkdir(parents=True)
    with pytest.raises(UserError, match=r"train: holds no images\. Add them"):
        load(task(tmp_path), PROCESSOR)
    Image.fromarray(IMAGES[0]).save(tmp_path / "train" / "in_no_class.png")
    with pytest.raises(UserError, match=r"train: holds no images\. Add them"):
        load(task(tmp_path), PROCESSOR)


def test_a_single_class(tmp_path):
    write_files(tmp_path, labels=[0] * 6)
    with pytest.raises(UserError, match=r"train: found 1 class names, expected two or more"):
        load(task(tmp_path), PROCESSOR)


def test_a_class_folder_that_training_has_not(files):
    write_files(files, ["ant", "bee", "bees"], splits=["test"])
    with pytest.raises(UserError, match=r"test/bees: 'bees' is not among the 3 classes .* did you mean 'bee'\?"):
        load(task(files, max_eval_rows=1), PROCESSOR)
    with pytest.raises(UserError, match=r"train/cat: 'cat' is not among the 2 classes .* expected ant, bee\. Rename"):
        load(task(files, classes=["ant", "bee"]), PROCESSOR)


@pytest.mark.parametrize("content", [b"", b"not an image", "cut short"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_broken_image_files(files, content, split):
    path = files / split / "bee" / "1.png"
    path.write_bytes(path.read_bytes()[:-40] if content == "cut short" else content)
    message = rf"{split}/bee/1.png: not an image, or one that is cut short \(\w+Error\)\. Replace or remove it"
    with pytest.raises(UserError, match=message):
        load(task(files), PROCESSOR)


def test_images_that_would_be_clipped(files):
    Image.fromarray(IMAGES[0, ..., 0].astype(np.uint16) * 256).save(files / "train" / "ant" / "0.png")
    with pytest.raises(UserError, match=r"ant/0.png: has more than 8 bits a channel"):
        load(task(files), PROCESSOR)


@pytest.mark.parametrize("image", [None, b"not an image"])
def test_broken_images_of_the_hub(monkeypatch, image):
    file = io.BytesIO()
    Image.fromarray(IMAGES[0]).save(file, "PNG")
    rows = hub_rows([file.getvalue(), image], [0, 1]).select([0, 1, 0, 0, 0, 0])
    with pytest.raises(UserError, match=r"someone/animals train, row 2: not an image"):
        load_from_hub(monkeypatch, rows)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"image_column": "img"}, r"train: column 'img' is missing \(found: id, image, label\)"),
        ({"label_column": "fine"}, r"train: column 'fine' is missing"),
        ({"image_column": "id"}, r"train: column 'id' holds no images. Set task.image_column"),
        ({"label_column": "id"}, r"train: found 0 class names, .* task.classes"),
        ({"label_column": "id", "classes": NAMES}, r"train, row 4: label 3 is not .* expected 0 to 2"),
    ],
)
def test_bad_columns_of_the_hub(monkeypatch, kwargs, message):
    with pytest.raises(UserError, match=message):
        load_from_hub(monkeypatch, hub_rows(), **kwargs)


@pytest.mark.parametrize(("label", "type_"), [("ant", "string"), (None, "int64"), (1.0, "float64"), (True, "bool")])
def test_labels_of_the_hub_that_are_no_numbers(monkeypatch, label, type_):
    rows = hub_rows(labels=[label] * 6, label=datasets.Value(type_))
    with pytest.raises(UserError, match=rf"train, row 1: label {label!r} is not the number of a class"):
        load_from_hub(monkeypatch, rows, classes=NAMES)
