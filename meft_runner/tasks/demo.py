"""A synthetic entailment task, generated from a small grammar.

A premise such as "the young doctor thanked the tall singer in the kitchen" is followed by a hypothesis
that either follows from it (details dropped, words replaced by more general ones or synonyms) or does
not (a word replaced by an unrelated one, or the verb negated). It serves to try the
program out; its scores say nothing about language.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from transformers import PreTrainedTokenizerBase

from meft_runner.config import DemoSettings
from meft_runner.tasks.classification import Classification
from meft_runner.tasks.data import TaskData
from meft_runner.tasks.description import describe_labelled

_CLASSES = ("entailment", "not_entailment")
_KINDS = {
    "doctor": "person", "singer": "person", "farmer": "person", "teacher": "person", "lawyer": "person",
    "dog": "animal", "horse": "animal", "cat": "animal", "goat": "animal", "parrot": "animal",
}  # fmt: skip
_VERBS = {  # past tense: base form, synonym
    "thanked": ("thank", "expressed gratitude to"),
    "scared": ("scare", "frightened"),
    "found": ("find", "discovered"),
    "helped": ("help", "assisted"),
    "followed": ("follow", "went after"),
    "ignored": ("ignore", "paid no attention to"),
}
_ADJECTIVES = ("young", "old", "tall", "small", "angry", "happy", "tired", "hungry")
_PLACES = {
    "kitchen": "building", "library": "building", "church": "building", "barn": "building",
    "forest": "countryside", "meadow": "countryside", "valley": "countryside",
}  # fmt: skip
SEEDS = {"train": 11, "validation": 12}  # by split


@dataclass(frozen=True)
class _Scene:
    subject: str
    subject_adjective: str
    verb: str
    target: str
    target_adjective: str
    place: str

    def text(self) -> str:
        """Returns the scene as a sentence; empty parts are left out."""
        words = ["the", self.subject_adjective, self.subject, self.verb, "the", self.target_adjective, self.target]
        if self.place:
            words += ["in the", self.place]
        return " ".join(word for word in words if word)


def load(task: DemoSettings, tokenizer: PreTrainedTokenizerBase) -> TaskData:
    """Generates and tokenises the rows."""
    rows = {"train": generate("train", task.max_train_rows), "validation": generate("validation", task.max_eval_rows)}
    places = {split: f"task=demo, {split}" for split in rows}
    description = describe_labelled(task, "generated", _CLASSES, rows, places, synthetic=True)
    return form_of(task).task_data(tokenizer, rows.pop("train"), rows, description)


def form_of(task: DemoSettings) -> Classification:
    """Returns how the rows are classified."""
    return Classification(("premise", "hypothesis"), _CLASSES, ("accuracy",), task.max_length)


def generate(split: str, limit: int | None) -> list[dict[str, Any]]:
    """Returns the first `limit` rows of a split (2000 where None), always the same ones.

    Args:
        split: train or validation; their premises differ.
        limit: number of rows.

    Returns:
        Rows with premise, hypothesis and label: 0 entailment, 1 not entailment, about half of each.
    """
    numbers = random.Random(SEEDS[split])
    return list(islice(_rows(numbers, odd=split == "train"), limit or 2000))


def _rows(numbers: random.Random, odd: bool) -> Iterator[dict[str, Any]]:
    seen: set[tuple[str, str]] = set()
    while True:
        scene = _scene(numbers)
        label = numbers.randrange(2)
        changed, locked = _contradicted(numbers, scene) if label else (scene, set())
        premise, hypothesis = scene.text(), _general(numbers, changed, locked).text()
        # The parity of the letters' codes splits the premises into two halves that share none.
        if (sum(premise.encode()) % 2 == 1) is odd and (premise, hypothesis) not in seen:
            seen.add((premise, hypothesis))
            yield {"premise": premise, "hypothesis": hypothesis, "label": label}


def _scene(numbers: random.Random) -> _Scene:
    subject, target = numbers.sample(list(_KINDS), 2)
    subject_adjective, target_adjective = numbers.sample(_ADJECTIVES, 2)
    verb, place = numbers.choice(list(_VERBS)), numbers.choice(list(_PLACES))
    return _Scene(subject, subject_adjective, verb, target, target_adjective, place)


def _general(numbers: random.Random, scene: _Scene, locked: set[str]) -> _Scene:
    """Returns what follows from a scene, one to three steps away that leave the locked parts alone."""
    steps = [
        {"subject_adjective": ""},
        {"target_adjective": ""},
        {"place": ""},
        {"subject": _KINDS.get(scene.subject, "")},
        {"target": _KINDS.get(scene.target, "")},
        {"verb": _VERBS.get(scene.verb, ("", ""))[1]},
        {"place": _PLACES.get(scene.place, "")},
    ]
    allowed = [step for step in steps if not locked & step.keys()]
    for step in numbers.sample(allowed, numbers.randint(1, 3)):
        scene = replace(scene, **step)
    return scene


def _contradicted(numbers: random.Random, scene: _Scene) -> tuple[_Scene, set[str]]:
    """Returns a scene that does not follow from `scene`, and the parts that must stay for that."""
    others = [word for word in _KINDS if word not in (scene.subject, scene.target)]
    places = [word for word, kind in _PLACES.items() if kind != _PLACES[scene.place]]
    changes: list[dict[str, str]] = [
        {"subject": numbers.choice(others)},
        {"target": numbers.choice(others)},
        {"place": numbers.choice(places)},
        {"verb": f"did not {_VERBS[scene.verb][0]}"},
    ]
    change = numbers.choice(changes)
    return replace(scene, **change), set(change)
