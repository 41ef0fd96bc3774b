"""SQuAD: the answer to a question is a span of a context, which is read through overlapping windows."""

import json
import logging
import string
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset, concatenate_datasets
from transformers import BatchEncoding, EvalPrediction, PreTrainedTokenizerBase

from meft_runner.config import Head, SquadSettings
from meft_runner.errors import UserError
from meft_runner.tasks.data import AnswerFile, EvalSplit, Row, TaskData, by_length, padding_collator
from meft_runner.tasks.description import describe
from meft_runner.tasks.rows import check_columns, check_texts, load_splits, origin
from meft_runner.tasks.squad_answers import SquadMetric, Window, choose_answers

_log = logging.getLogger(__name__)
_BLANKS = [ord(blank) for blank in string.whitespace]
ROWS_AT_ONCE = 1000  # what the tokenizer returns takes some hundred bytes a token


def load(task: SquadSettings, tokenizer: PreTrainedTokenizerBase) -> TaskData:
    """Reads and checks the rows of SQuAD, and cuts them into windows.

    Args:
        task: the settings.
        tokenizer: the backbone's, a fast one.

    Raises:
        UserError: rows are missing, unreachable or not as the task needs them, or a question fills its window.
    """
    if task.null_threshold and not task.unanswerable:
        raise UserError(
            f"task.null_threshold={task.null_threshold}: task={task.name} answers every question, so that it has no "
            "effect. Leave it out, or take task=squad_v2."
        )
    splits = load_splits(task, partial(_check_row, task))
    rows = {split: _usable_rows(task, split, part) for split, part in splits.rows.items()}
    left_out = {split: len(part) - len(rows[split]) for split, part in splits.rows.items()}
    description = describe(task, splits.source, rows, revision=splits.revision, left_out=left_out)
    train, _ = cut_windows(task, tokenizer, rows.pop(task.train_split), origin(task, task.train_split))
    development = {split: _development_split(task, tokenizer, part, split) for split, part in rows.items()}
    return TaskData(
        head=Head.span,
        classes=(),
        train=train,
        evaluation={split: EvalSplit(part.inputs, part.score) for split, part in development.items()},
        metric="f1",
        collate=padding_collator(tokenizer, task.max_length),
        description=description,
        label_names=("start_positions", "end_positions"),
        answer_files=[
            AnswerFile(f"predictions_{split}.json", part.inputs, part.answers_by_id)
            for split, part in development.items()
        ],
    )


@dataclass(frozen=True)
class DevelopmentSplit:
    """A development split, and what turns predictions for it into answers.

    Attributes:
        task: the settings.
        rows: Q questions.
        inputs: N windows as model inputs, longest first.
        windows: the same windows in the same order.
    """

    task: SquadSettings
    rows: list[Row]
    inputs: Dataset
    windows: list[Window]

    def answers(self, predictions: Any) -> list[str]:
        """Returns the Q answers that (N, S) start logits, end logits and what else there is stand for."""
        start_logits, end_logits = predictions[:2]
        contexts = [row["context"] for row in self.rows]
        return choose_answers(self.task, contexts, self.windows, start_logits, end_logits)

    def score(self, prediction: EvalPrediction) -> dict[str, float]:
        """Returns `exact_match` and `f1` as fractions."""
        golds = [row["answers"]["text"] for row in self.rows]
        metric = SquadMetric(self.task.unanswerable)
        return metric.compute(predictions=self.answers(prediction.predictions), references=golds)

    def answers_by_id(self, predictions: Any) -> str:
        """Returns the answers in the form that the official evaluation scripts read."""
        ids = [row["id"] for row in self.rows]
        return json.dumps(dict(zip(ids, self.answers(predictions), strict=True)))


def _development_split(
    task: SquadSettings, tokenizer: PreTrainedTokenizerBase, rows: list[Row], split: str
) -> DevelopmentSplit:
    inputs, windows = cut_windows(task, tokenizer, rows, origin(task, split))
    inputs = by_length(inputs.add_column("window", range(len(windows))))
    return DevelopmentSplit(task, rows, inputs.remove_columns("window"), [windows[i] for i in inputs["window"]])


def _usable_rows(task: SquadSettings, split: str, rows: list[Row]) -> list[Row]:
    """Returns the rows whose answers are where they say, where the others may be skipped."""
    name, count = Counter(row["id"] for row in rows).most_common(1)[0]
    if count > 1:
        raise UserError(
            f"{origin(task, split)}: {count} rows have the id '{name}', and answers are told apart by it. "
            "Give each row an id of its own."
        )
    bad = [row["id"] for row in rows if not answers_are_in_place(row)]
    if not bad:
        return rows
    finding = (
        f"{origin(task, split)}: {len(bad)} of {len(rows)} rows have an answer that is not at its answer_start "
        f"in the context (ids {', '.join(bad[:3])})"
    )
    if not task.skip_bad_rows:
        raise UserError(f"{finding}: mend those rows or set task.skip_bad_rows=true.")
    if len(bad) == len(rows):
        raise UserError(f"{finding}: task.skip_bad_rows=true leaves none. Mend those rows.")
    _log.warning("%s; they are left out.", finding)
    return [row for row in rows if answers_are_in_place(row)]


def _check_row(task: SquadSettings, row: Row, where: str) -> None:
    check_columns(row, ("id", "question", "context", "answers"), where)
    check_texts(row, ("id", "question", "context"), where)
    answers = row["answers"]
    if not are_answers(answers):
        raise UserError(
            f"{where}: column 'answers' is {answers!r:.100}, expected "
            '{"text": [...], "answer_start": [...]} with as many whole numbers as texts. Mend or remove that row.'
        )
    if not answers["text"] and not task.unanswerable:
        raise UserError(
            f"{where}: answers.text is [], task={task.name} expects at least one. "
            "Mend or remove that row, or take task=squad_v2."
        )


def are_answers(value: Any) -> bool:
    """Tells whether a value has the form of a question's answers, of which there may be none."""
    if not isinstance(value, dict):
        return False
    texts, starts = value.get("text"), value.get("answer_start")
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        return False
    return all(isinstance(text, str) for text in texts) and all(type(start) is int for start in starts)


def answers_are_in_place(row: Row) -> bool:
    """Tells whether each answer of a question is where it says in the context."""
    answers = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
    return all(text.strip() and start >= 0 and row["context"].startswith(text, start) for text, start in answers)


def cut_windows(
    task: SquadSettings, tokenizer: PreTrainedTokenizerBase, rows: list[Row], where: str
) -> tuple[Dataset, list[Window]]:
    """Cuts rows into N windows: model inputs with `length` and the answer's positions, and where their tokens stand.

    Raises:
        UserError: a question is so long that a window would bring nothing new of its context.
    """
    parts: list[Dataset] = []
    windows: list[Window] = []
    for first in range(0, len(rows), ROWS_AT_ONCE):
        chunk = rows[first : first + ROWS_AT_ONCE]
        encoded = _encode(task, tokenizer, chunk, where)
        owners = encoded["overflow_to_sample_mapping"]
        begins = [_begins_of_words(row["context"]) for row in chunk]
        new = [_window(encoded, number, first + owner, begins[owner]) for number, owner in enumerate(owners)]
        targets = [_target(window, rows[window.question]) for window in new]
        columns = {name: encoded[name] for name in tokenizer.model_input_names}
        columns["length"] = [len(ids) for ids in encoded["input_ids"]]
        columns["start_positions"], columns["end_positions"] = zip(*targets, strict=True)
        parts.append(Dataset.from_dict(columns))
        windows += new
    return concatenate_datasets(parts), windows


def _encode(task: SquadSettings, tokenizer: PreTrainedTokenizerBase, rows: list[Row], where: str) -> BatchEncoding:
    """Tokenises questions with their contexts, each context in as many windows as it needs.

    Raises:
        UserError: a question is so long that a window would bring nothing new of its context.
    """
    questions = [row["question"].lstrip() for row in rows]  # leading blanks would count as tokens in some vocabularies
    special = tokenizer.num_special_tokens_to_add(pair=True)
    for row, ids in zip(rows, tokenizer(questions, add_special_tokens=False, verbose=False)["input_ids"], strict=True):
        needed = len(ids) + special + task.stride + 1
        if needed > task.max_length:
            raise UserError(
                f"{where}, id {row['id']}: task.max_length={task.max_length} leaves no room for "
                f"a question of {len(ids)} tokens. "
                f"Set it to {needed} or more, lower task.stride, or shorten the question."
            )
    return tokenizer(
        questions,
        [row["context"] for row in rows],
        truncation="only_second",
        max_length=task.max_length,
        stride=task.stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )


def _begins_of_words(context: str) -> np.ndarray:
    """Returns the next place without a blank from each of C characters on, and from their end on, (C + 1,)."""
    codes = np.append(np.frombuffer(context.encode("utf-32-le", "surrogatepass"), dtype=np.uint32), 0)
    places = np.where(np.isin(codes, _BLANKS), len(codes), np.arange(len(codes)))
    return np.minimum.accumulate(places[::-1])[::-1]


def _window(encoded: BatchEncoding, number: int, question: int, begins: np.ndarray) -> Window:
    """Returns what stands in a model input; tokens of some vocabularies cover the blank before their word too."""
    offsets = np.array(encoded["offset_mapping"][number], dtype=np.int32)
    of_context = np.array(encoded.sequence_ids(number), dtype=float) == 1  # special tokens' None becomes NaN
    offsets[of_context, 0] = begins[offsets[of_context, 0]]
    positions = np.flatnonzero(of_context & (offsets[:, 0] < offsets[:, 1]))
    return Window(question, positions, offsets[positions])


def _target(window: Window, row: Row) -> tuple[int, int]:
    """Returns the positions of the answer's first and last token, or the first token's where the window lacks it."""
    texts, starts = row["answers"]["text"], row["answers"]["answer_start"]
    if not texts or not len(window.positions):
        return 0, 0
    text = texts[0].strip()  # no token covers a blank at the edge
    begin = starts[0] + texts[0].index(text)
    end = begin + len(text)
    firsts, ends = window.offsets.T
    first = np.searchsorted(ends, begin, side="right")  # the first token that ends behind the answer's begin
    last = np.searchsorted(firsts, end, side="left") - 1  # the last token that begins before the answer's end
    if firsts[0] > begin or ends[-1] < end or first > last:  # the last: the tokenizer dropped all its characters
        return 0, 0
    return int(window.positions[first]), int(window.positions[last])
