"""What the stand-in hub holds: the real repositories' names, layouts and columns, with tiny models and few rows."""

import io
import json
import os
from pathlib import Path

import datasets
import numpy as np
import torch
import yaml
from datasets import ClassLabel, Dataset, Features, List, Value
from PIL import Image
from tokenizers import ByteLevelBPETokenizer
from transformers import OPTForCausalLM

from tests.helpers.folders import make_model_folder
from tests.helpers.models import tiny_config

_REAL = Path(os.environ.get("MEFT_DATA_DIR", "nowhere"))
_NOT_READ = {"README.md": b"# a model", "tf_model.h5": b"tensorflow's", "onnx/model.onnx": b"onnx's"}
TEXT = Value("string")
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FEATURES = {
    "rte": {"sentence1": TEXT, "sentence2": TEXT, "label": ClassLabel(names=["entailment", "not_entailment"])}
    | {"idx": Value("int32")},
    "ARC-Easy": {"id": TEXT, "question": TEXT, "choices": {"text": List(TEXT), "label": List(TEXT)}, "answerKey": TEXT},
    "squad": {"id": TEXT, "title": TEXT, "context": TEXT, "question": TEXT}
    | {"answers": {"text": List(TEXT), "answer_start": List(Value("int32"))}},
    "cifar10": {"img": datasets.Image(), "label": ClassLabel(names=CIFAR)},
}


def roberta(folder: Path) -> dict[str, bytes]:
    """A RoBERTa as FacebookAI has it: safetensors beside the older forms, and a fast tokenizer."""
    make_model_folder(folder, "roberta")
    return _files(folder) | _NOT_READ | {"pytorch_model.bin": b"an older form of the weights"}


def opt(folder: Path) -> dict[str, bytes]:
    """An OPT as facebook has it: weights as a .bin file only, and a tokenizer of vocab.json and merges.txt."""
    config = tiny_config("opt-answers")
    config.vocab_size, config.max_position_embeddings = 300, 130
    torch.manual_seed(0)
    model = OPTForCausalLM(config)
    config.architectures = ["OPTForCausalLM"]
    config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([], vocab_size=300, special_tokens=["<s>", "<pad>", "</s>", "<unk>"])
    bpe.save_model(str(folder))
    special = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    settings = special | {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "add_prefix_space": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return _files(folder) | _NOT_READ


def vit(folder: Path) -> dict[str, bytes]:
    """A ViT as google has it."""
    make_model_folder(folder, "vit")
    half = [0.5, 0.5, 0.5]
    processor = {"do_normalize": True, "do_resize": True, "image_mean": half, "image_std": half, "size": 16}
    return _files(folder) | _NOT_READ | {"preprocessor_config.json": json.dumps(processor).encode()}


def glue_rte(count: int = 24) -> dict[str, bytes]:
    """RTE in GLUE's layout: real rows where MEFT_DATA_DIR has them, else rows of the same columns."""
    return _repository("rte", "rte", {split: glue_rows(split, count) for split in ("train", "validation", "test")})


def arc_easy(count: int = 12) -> dict[str, bytes]:
    """ARC's easy questions."""
    made = [
        {
            "id": f"made_{n}",
            "question": f"Which number follows {n}?",
            "choices": {"text": [str(n + 1), str(n + 3), "none", str(n)], "label": list("ABCD")},
            "answerKey": "A",
        }
        for n in range(count)
    ]
    splits = {split: _real(f"qa/arc_easy/{split}.jsonl", count) or made for split in ("train", "validation", "test")}
    return _repository("ARC-Easy", "ARC-Easy", splits)


def squad(count: int = 12) -> dict[str, bytes]:
    """SQuAD 1.1."""
    made = []
    for n in range(count):
        context = f"The {n}th house in the long street has {n + 3} windows, and it is painted green."
        answers = {"text": [f"{n + 3} windows"], "answer_start": [context.index(f"{n + 3} windows")]}
        made.append({"id": str(n), "title": "Houses", "context": context, "question": "How many?", "answers": answers})
    splits = {split: _real(f"qa/squad/{split}.jsonl", count) or made for split in ("train", "validation")}
    return _repository("squad", "plain_text", splits)


def cifar10(count: int = 12) -> dict[str, bytes]:
    """CIFAR-10."""
    return _repository("cifar10", "plain_text", {split: _images(split, count) for split in ("train", "test")})


def glue_rows(split: str, count: int) -> list[dict[str, object]]:
    rows = _real(f"glue/rte/{split}.jsonl", count) or [
        {"sentence1": f"The {n} dogs of {split} were found in the garden.", "sentence2": f"{n} dogs", "label": n % 2}
        | {"idx": n}
        for n in range(count)
    ]
    return rows if split != "test" else [row | {"label": -1} for row in rows]


def _images(split: str, count: int) -> list[dict[str, object]]:
    file = _REAL / "images" / "cifar10" / f"{split}.npz"
    if file.is_file():
        arrays = np.load(file)
        images, labels = arrays["images"][:count], arrays["labels"][:count]
    else:
        labels = np.arange(count) % len(CIFAR)
        images = np.stack([np.full((32, 32, 3), 20 * label, np.uint8) for label in labels])
    return [{"img": _png(image), "label": int(label)} for image, label in zip(images, labels, strict=True)]


def _png(image: np.ndarray) -> dict[str, object]:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def _real(name: str, count: int) -> list[dict[str, object]]:
    """Returns the shortest rows of a real file, since the models here read few tokens."""
    file = _REAL / name
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [json.loads(line) for line in sorted(lines, key=len)[:count]]


def _repository(kind: str, config: str, splits: dict[str, list[dict[str, object]]]) -> dict[str, bytes]:
    """Returns a data set's files as push_to_hub writes them: Parquet, and a card that names configurations."""
    features = Features(FEATURES[kind])
    files = {}
    for split, rows in splits.items():
        file = io.BytesIO()
        Dataset.from_list([{name: row[name] for name in features} for row in rows], features).to_parquet(file)
        files[f"{config}/{split}-00000-of-00001.parquet"] = file.getvalue()
    data_files = [{"split": split, "path": f"{config}/{split}-*"} for split in splits]
    sizes = [{"name": split, "num_bytes": 0, "num_examples": len(rows)} for split, rows in splits.items()]
    info = {"config_name": config, "features": features._to_yaml_list(), "splits": sizes, "dataset_size": 0}
    card = {"dataset_info": [info], "configs": [{"config_name": config, "data_files": data_files}]}
    return files | {"README.md": f"---\n{yaml.safe_dump(card)}---\n# A data set\n".encode(), ".gitattributes": b"\n"}


def _files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}
