"""The batch of a training step that is predicted: which inputs a model's class reads, and of which shapes."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from meft_runner.backbones import Family
from meft_runner.config.fields import COUNT
from meft_runner.errors import UserError
from meft_runner.memory.fake import Shapes

# What a label belongs to, by the loss that transformers knows a class's head by.
_OF_ROWS = ("ForSequenceClassification", "ForImageClassification")
_OF_TOKENS = ("ForCausalLM", "ForMaskedLM", "ForTokenClassification", "ForConditionalGeneration")
_OF_SPANS = "ForQuestionAnswering"
_MOST_VALUES = 2**20  # tokens that are looked at in seconds


def shapes_of(model: PreTrainedModel, family: Family, rows: int, length: int | None) -> Shapes:
    """Returns shape and dtype of each input of a batch without padding, labels included.

    Args:
        model: with its head.
        family: its architecture.
        rows: in the batch.
        length: tokens a row; None for images.

    Raises:
        UserError: the model has no such batches, or no loss that is known.
    """
    _check_count("batch", rows)
    tokens = _tokens(model, family, length)
    config: Any = model.config
    if tokens is None:
        inputs: dict[str, Any] = {
            "pixel_values": ((rows, config.num_channels, config.image_size, config.image_size), torch.float32)
        }
    else:
        text = ((rows, tokens), torch.long)
        # A fused kernel needs no mask of whole rows; others have it in memory.
        inputs = {"input_ids": text, **({} if family.fused_attention else {"attention_mask": text})}
    return inputs | _labels(model, rows, tokens)


def with_values(shapes: Shapes, config: Any) -> dict[str, Tensor]:
    """Returns a batch of the shapes, with values by which a model can find where its rows end.

    Raises:
        UserError: there are too many of them.
    """
    rows, length = shapes["input_ids"][0]
    if rows * length > _MOST_VALUES:
        raise UserError(
            f"batch={rows}: {config.model_type} looks for the end of each row, and {rows * length} tokens are too many "
            "to look at. Take a smaller batch, with which memory grows evenly."
        )
    batch = {name: torch.ones(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}
    special = {config.pad_token_id, config.bos_token_id, config.eos_token_id}
    batch["input_ids"] *= next(token for token in range(len(special) + 1) if token not in special)
    batch["input_ids"][:, -1] = config.eos_token_id
    return batch


def _tokens(model: PreTrainedModel, family: Family, length: int | None) -> int | None:
    """Returns the tokens of a row of text, None of images.

    Raises:
        UserError: the model reads no rows of this length.
    """
    name = type(model).__name__
    if model.main_input_name != "input_ids":
        if length is not None:
            raise UserError(f"length={length}: {name} reads images, which have a length of their own. Leave it out.")
        return None
    most = family.positions(model.config)
    if length is None:
        raise UserError(f"length: expected how many tokens a row has, 1 to {most}.")
    _check_count("length", length)
    if length > most:
        raise UserError(f"length={length}: {name} reads at most {most} tokens.")
    return length


def _labels(model: PreTrainedModel, rows: int, tokens: int | None) -> dict[str, Any]:
    kind = model.loss_type
    if kind in _OF_ROWS:
        return {"labels": ((rows,), torch.long)}
    if kind in _OF_TOKENS and tokens is not None:
        return {"labels": ((rows, tokens), torch.long)}
    if kind == _OF_SPANS:
        return dict.fromkeys(("start_positions", "end_positions"), ((rows,), torch.long))
    raise UserError(
        f"model: {type(model).__name__} has no loss whose labels are known. Give the model with the head that trains, "
        "for instance one of AutoModelForSequenceClassification or AutoModelForCausalLM."
    )


def _check_count(key: str, value: Any) -> None:
    low, high = COUNT
    if type(value) is not int or not low <= value <= high:
        raise UserError(f"{key}={value}: expected a whole number, {low} to {high}.")
