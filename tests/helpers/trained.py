"""Trained runs of tiny models on rows of every kind of task, for tests that use them afterwards."""

import json

from tests.helpers.composed import settings
from tests.helpers.folders import (
    make_image_rows,
    make_llama_folder,
    make_model_folder,
    make_squad_rows,
    write_lines,
)
from tests.helpers.language import LANGUAGE_ROWS
from tests.helpers.language import make_llama_folder as make_chat_folder
from tests.helpers.question_rows import ROWS

PAIR = [
    {"sentence1": f"The dog number {i} was found by {i % 5} people.", "sentence2": f"A {w} was found.", "label": i % 2}
    for i, w in zip(range(20), ["dog", "coin"] * 10, strict=True)
]
GRADED = [row | {"label": 0.1 + i % 5} for i, row in enumerate(PAIR)]
TEXTS = [{"text": row["sentence1"] * (1 + i % 3), "label": ["no", "yes"][i % 2]} for i, row in enumerate(PAIR)]
QUESTIONS = [
    ROWS["arc_easy"] | {"question": f"What boils at {i} degrees?", "answerKey": str(1 + i % 4)} for i in range(6)
]
TRAINING = ("training.epochs=2", "training.batch_size=4", "training.eval_batch_size=3", "training.learning_rate=0.01")
METHODS = {
    "full": ["method=full"],
    "lora": ["method=lora"],
    "lora reversed": ["method=lora", "method.reversal=exact"],
    "meft1": ["method=meft1"],
    "meft3": ["method=meft3"],
}
OTHER_METHODS = {
    "dora": ["method=dora"],
    "vera": ["method=vera", "method.rank=4"],
    "ia3": ["method=ia3"],
    "ia3 reversed": ["method=ia3", "method.reversal=exact"],
}
KINDS = ["rte", "stsb", "demo", "text", "arc_easy", "squad", "squad_v2", "images", "lm", "instruct", "chat"]
SPLITS = {"text": "evaluation", "lm": "evaluation", "instruct": "evaluation", "chat": "evaluation", "images": "test"}


def run_settings(kind, method, folder):
    """Returns the settings of a short run of one kind of task, whose model and rows are made in a folder."""
    words = [
        *_WORDS[kind](folder),
        f"task={kind}",
        *TRAINING,
        *(METHODS | OTHER_METHODS)[method],
        f"output_dir={folder / 'runs'}",
    ]
    return settings(*words)


def split_of(kind):
    """Returns the name of the development split."""
    return SPLITS.get(kind, "validation")


def _encoder(folder):
    (folder / "model").mkdir(exist_ok=True)
    return ["backbone=roberta", f"backbone.path={make_model_folder(folder / 'model', 'roberta')}"]


def _splits(folder, rows):
    (folder / "rows").mkdir(exist_ok=True)
    write_lines(folder / "rows" / "train.jsonl", rows)
    write_lines(folder / "rows" / "validation.jsonl", rows[1:])
    return [f"task.data_dir={folder / 'rows'}"]


def _glue(rows):
    return lambda folder: [*_encoder(folder), *_splits(folder, rows), "task.max_length=100"]


def _demo(folder):
    return [*_encoder(folder), "task.max_train_rows=8", "task.max_eval_rows=8", "task.max_length=100"]


def _text(folder):
    write_lines(folder / "train.jsonl", TEXTS)
    write_lines(folder / "dev.jsonl", TEXTS[3:])
    files = [f"task.train_file={folder / 'train.jsonl'}", f"task.eval_file={folder / 'dev.jsonl'}"]
    return [*_encoder(folder), *files, "task.max_length=100"]


def _choice(folder):
    llama = make_llama_folder(folder / "model", [json.dumps(row) for row in QUESTIONS])
    return ["backbone=smollm2_135m", f"backbone.path={llama}", *_splits(folder, QUESTIONS)]


def _squad(folder):
    (folder / "model").mkdir(exist_ok=True)
    kind = make_model_folder(folder / "model", "roberta")
    rows = make_squad_rows(folder / "rows")
    return [
        "backbone=roberta", f"backbone.path={kind}", f"task.data_dir={rows}", "task.max_length=100", "task.stride=20"
    ]  # fmt: skip


def _images(folder):
    (folder / "model").mkdir(exist_ok=True)
    vit = make_model_folder(folder / "model", "vit")
    return ["backbone=vit", f"backbone.path={vit}", f"task.data_dir={make_image_rows(folder / 'rows')}"]


def _language(kind):
    def words(folder):
        llama = make_chat_folder(folder / "model")
        for name in ("train", "dev"):
            write_lines(folder / f"{name}.jsonl", LANGUAGE_ROWS[kind] * 3)
        files = [f"task.train_file={folder / 'train.jsonl'}", f"task.eval_file={folder / 'dev.jsonl'}"]
        generated = [] if kind == "lm" else ["task.generate=true", "task.max_new_tokens=4"]
        return ["backbone=smollm2_135m", f"backbone.path={llama}", *files, "task.max_length=96", *generated]

    return words


_WORDS = {
    "rte": _glue(PAIR), "stsb": _glue(GRADED), "demo": _demo, "text": _text, "arc_easy": _choice, "squad": _squad,
    "squad_v2": _squad, "images": _images, **{kind: _language(kind) for kind in LANGUAGE_ROWS},
}  # fmt: skip
