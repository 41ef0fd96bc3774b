"""Records as runs leave them, without a run."""

from copy import deepcopy
from functools import cache
from itertools import count
from math import exp

from meft_runner.config import identity, plain
from meft_runner.records.record import finish, new_record, write_record
from meft_runner.records.schema import CompleteRecord, Record
from meft_runner.run.folder import run_directory
from tests.helpers.composed import settings

MIB = 2**20
_number = count()


@cache
def composed(*overrides):
    return plain(settings(*overrides))


def record(best=0.5, *overrides, activations=MIB, metric="accuracy", history=(), **parts):
    """Returns the record of a complete run, as a reader of its file has it.

    Args:
        best: its score as a fraction.
        overrides: settings; the task is RTE unless they say so.
        activations: bytes.
        metric: of the score.
        history: (training loss, score as a fraction) of each epoch.
        parts: take the place of parts of the record.
    """
    overrides = overrides if any(text.startswith("task=") for text in overrides) else ("task=rte", *overrides)
    config = deepcopy(composed(*overrides))
    made = new_record(f"x{next(_number)}", config, "cpu")
    finish(made, "complete")
    others = ("parameters", "gradients", "optimizer", "peak", "activation_paper", "retained_after_forward")
    epochs = [{"epoch": 1.0 + i, "train_loss": loss, metric: score} for i, (loss, score) in enumerate(history)]
    content = made.plain() | {
        "data": {"synthetic": config["task"]["name"] == "demo"},
        "scores": {"metric": metric, "best": best, "final": best, "history": epochs},
        "parameters": {"total": 1000, "trainable": 10},
        "memory": {
            "source": "tracked",
            **{f"{name}_bytes": 3 * MIB for name in others},
            "activations_bytes": activations,
            "batch_size": 16,
            "length": 128,
        },
        "timing": {"median_step_seconds": 0.5, "tokens_per_second": 100.0, "train_seconds": 5.0},
        "reversal": {"mode": "exact", "checked_steps": 3, "mismatches": 0, "max_error": 0.0},
    }
    return CompleteRecord.model_validate(content | parts)


def of_texts(loss, *overrides, epochs=1, **metrics):
    """Returns the record of a run on texts whose best epoch has this loss; others before it have a larger one."""
    losses = [loss + number for number in reversed(range(epochs))]
    history = [
        {"epoch": 1.0 + i, "train_loss": 3.0, "inverse_perplexity": exp(-each), "loss": each, "perplexity": exp(each),
         **metrics} for i, each in enumerate(losses)
    ]  # fmt: skip
    scores = {"metric": "inverse_perplexity", "best": exp(-loss), "final": exp(-loss), "history": history}
    return record(exp(-loss), "backbone=opt", *overrides, scores=scores)


def changed(record, **parts):
    """Returns a record in which parts have other contents."""
    content = record.plain() | parts
    return (CompleteRecord if content["status"] == "complete" else Record).model_validate(content)


def study(errors, *overrides, cosines=None, mismatches=0):
    """Returns the record of a gradient study with these errors, bottom first."""
    cosines = cosines or [1.0] * len(errors)
    layers = [
        {"layer": f"layer {i}", "error": error, "cosine": cosine}
        for i, (error, cosine) in enumerate(zip(errors, cosines, strict=True))
    ]
    nothing = {"scores": None, "timing": None, "memory": None, "reversal": {"mode": "float", "mismatches": mismatches}}
    return record(0.0, "study=gradients", *overrides, **nothing, gradients=layers)


def started(hidden, output, *overrides, **parts):
    """Returns the record of a run that measured where it starts and did not train."""
    distances = {"hidden_distance": hidden, "output_distance": output}
    nothing = {"scores": None, "timing": None, "reversal": None}
    return record(0.0, "study=start", *overrides, **nothing, start=distances, **parts)


def write_run(chosen, status="complete", error=None):
    """Writes a record into the folder of a run."""
    made = changed(record(), identity=identity(chosen), config=plain(chosen), status=status, error=error,
                   method_version=chosen.method.version)  # fmt: skip
    write_record(made, run_directory(chosen))
