"""How a run's trained weights are loaded elsewhere, in five lines of Python that a model card shows."""

from meft_runner.config import FullSettings, Head, PeftSettings, Settings
from meft_runner.records.schema import Record
from meft_runner.run.beginning import class_names
from meft_runner.run.portable import base_name
from meft_runner.run.reuse import WEIGHTS

_CLASSES = {
    Head.classification: "AutoModelForSequenceClassification",
    Head.lm: "AutoModelForCausalLM",
    Head.span: "AutoModelForQuestionAnswering",
    Head.image: "AutoModelForImageClassification",
}
_FOLDER = "FOLDER"  # stands for the one that the reader has


def loading(settings: Settings, record: Record, repository: str | None) -> str:
    """Returns the lines, and what is to be known beside them.

    Args:
        settings: of the run.
        record: of the run.
        repository: of the hub that holds the weights, owner/name; None for a folder.
    """
    if (settings.backbone.repeat or 1) > 1:
        return (
            f"The base model's layers are stacked {settings.backbone.repeat} times, which `from_pretrained` cannot "
            "load; `meft-predict run=FOLDER` answers with the run's folder."
        )
    lines = _LINES[next(kind for kind in _LINES if isinstance(settings.method, kind))](repository)
    kind, base = _CLASSES[settings.task.head], _base(settings, record)
    code = "\n".join(["```python", *lines, "```"]).replace("CLASS", kind).replace("BASE", base)
    where = [] if repository else [f"`{_FOLDER}` is the folder of this card."]
    where += [] if base_name(settings) else ["`DIR` is a folder with the base model."]
    return "\n\n".join([code, " ".join([*where, *_notes(settings, record, repository)])]).rstrip()


def _base(settings: Settings, record: Record) -> str:
    """Returns the arguments of `from_pretrained` for the base model."""
    name, commit = base_name(settings), None if record.weights is None else record.weights.revision
    arguments = [repr(name or "DIR").replace("'", '"')]
    arguments += [f'revision="{commit}"'] if commit else []
    if settings.task.head in (Head.classification, Head.image):
        # whatever head stands there, the trained one takes its place
        arguments += [f"num_labels={len(class_names(record, settings.task)) or 1}", "ignore_mismatched_sizes=True"]
    return ", ".join(arguments)


def _with_peft(repository: str | None) -> list[str]:
    return [
        "from peft import PeftModel",
        "from transformers import CLASS",
        "",
        "base = CLASS.from_pretrained(BASE)",
        f'model = PeftModel.from_pretrained(base, "{repository or _FOLDER}").eval()',
    ]


def _with_this_program(repository: str | None) -> list[str]:
    return [
        *(["from huggingface_hub import snapshot_download"] if repository else []),
        "from meft_runner import load_adapter",
        "from transformers import CLASS",
        "",
        "base = CLASS.from_pretrained(BASE)",
        f"model = load_adapter(base, {_local(repository)}).eval()",
    ]


def _with_transformers(repository: str | None) -> list[str]:
    return [
        *(["from huggingface_hub import snapshot_download"] if repository else []),
        "from safetensors.torch import load_model",
        "from transformers import CLASS",
        "",
        "model = CLASS.from_pretrained(BASE).eval()",
        f'load_model(model, {_local(repository)} + "/{WEIGHTS}", strict=False)',
    ]


def _local(repository: str | None) -> str:
    return f'snapshot_download("{repository}")' if repository else f'"{_FOLDER}"'


_LINES = {PeftSettings: _with_peft, FullSettings: _with_transformers, object: _with_this_program}


def _notes(settings: Settings, record: Record, repository: str | None) -> list[str]:
    """Returns what a reader must know of the model that these lines make, a sentence each."""
    notes, plain, method = [], record.plain_model, settings.method
    if isinstance(method, PeftSettings) and method.reverses:
        apart = (
            ""
            if plain is None or plain.output_distance is None
            else f" (relative distance {plain.output_distance:.2g})"
        )
        notes.append(
            f"The layers were trained in a delay coupling. In the plain model outputs are almost the same{apart}; "
            f"`meft_runner.load_adapter(base, {_local(repository)})` in place of the last line gives the trained ones."
        )
    if settings.task.head is Head.classification and Head.lm in settings.backbone.heads:
        notes.append("It reads each row's last token: give one row at a time, or rows padded as its class expects.")
    return notes
