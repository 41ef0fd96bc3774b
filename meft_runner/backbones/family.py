"""What the rest of the program knows of a backbone family: its layers, and how a layer runs as stages."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from peft import PeftModel
from torch import Tensor, nn
from transformers import (
    AutoModelForImageClassification,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from meft_runner.backbones.stack_layer import LayerList
from meft_runner.config import Head
from meft_runner.reversible import BlockInputs

# What a family's models are to do, and the class that has the head for it; any class with `from_pretrained`.
Heads = Mapping[Head, Any]
ENCODER_HEADS: Heads = {
    Head.classification: AutoModelForSequenceClassification,
    Head.span: AutoModelForQuestionAnswering,
}
IMAGE_HEADS: Heads = {Head.image: AutoModelForImageClassification}

# Modules that stand on a base model for a task. A language model's head is pre-trained and not among them, nor is a
# pooler inside the base model.
TASK_HEADS = ("classifier", "classification_head", "pooler", "score", "qa_outputs")

# Where packed texts begin, for kernels that read it in place of a mask. Where a family's masks keep such texts apart
# (`packs`), it is of no account.
PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")


class UnsupportedInputError(TypeError):
    """A layer was called with an input that the reversible stack does not carry."""


@dataclass(frozen=True)
class LayerStage:
    """One step of a layer's attention, written with the layer's own submodules.

    Attributes:
        run: (layer, *tensors, inputs) -> one tensor or several, (B, S, D) each. The first step is given x, the layer's
            input; a later one what the step before returned, and x before it where it is token-wise.
        tokenwise: whether each token is computed by itself, in any piece of a row, (T, 1, D); of the inputs it reads
            none but those that belong to tokens.
    """

    run: Callable[..., Tensor | tuple[Tensor, ...]]
    tokenwise: bool


def tokenwise(run: Callable[..., Tensor | tuple[Tensor, ...]]) -> LayerStage:
    """Marks a step in which each token is computed by itself."""
    return LayerStage(run, tokenwise=True)


def whole_row(run: Callable[..., Tensor | tuple[Tensor, ...]]) -> LayerStage:
    """Marks a step in which tokens depend on other tokens of their row."""
    return LayerStage(run, tokenwise=False)


@dataclass(frozen=True)
class LayerView:
    """One list of layers in a model, and how its layers run as stages.

    Attributes:
        path: of the layer list inside the base model.
        attention: the steps up to the last attention kernel's result.
        attention_end: (layer, x, *what the last step returned, adapter) -> (B, S, H), the token-wise rest of the
            attention block, with residual and LayerNorm; the adapter, where given, reads the output projection's
            result o and is added to it.
        mlp_block: (layer, x, adapter) -> (B, S, H), token-wise, likewise; the adapter reads what the MLP reads and is
            added before the residual sum.
        block_inputs: turns the arguments that the model's loop gives a layer into a record.
        result: turns a layer's hidden states, (B, S, H), into what the model's loop expects of a layer.
    """

    path: str
    attention: tuple[LayerStage, ...]
    attention_end: Callable[..., Tensor]
    mlp_block: Callable[[nn.Module, Tensor, nn.Module | None], Tensor]
    block_inputs: Callable[..., BlockInputs]
    result: Callable[[Tensor], Any] = lambda hidden: hidden

    def layers(self, model: PreTrainedModel) -> nn.ModuleList:
        """Returns the model's list of layers, bottom first."""
        layers = model.base_model.get_submodule(self.path)
        assert isinstance(layers, nn.ModuleList)
        return layers

    def replace_layers(self, model: PreTrainedModel, layers: Iterable[nn.Module]) -> None:
        """Puts other modules in the place of the model's layers; its own loop will call them."""
        model.base_model.set_submodule(self.path, LayerList(layers))


@dataclass(frozen=True)
class Family:
    """One architecture of transformers.

    Attributes:
        model_type: as its config.json names it.
        views: its layer lists, in the order in which a forward pass runs them.
        heads: what it can do.
        lora_targets: pattern of the modules that LoRA updates: query and value projections.
        ia3_targets: pattern of the modules that (IA)^3 rescales: keys, values, the MLP's second layer.
        ia3_feedforward: those of them whose input is rescaled instead of the output.
        activation: the configuration's name for the layers' activation.
        dropout: the configuration's name for the layers' dropout.
        layer_drop: the configuration's names for the chance that a layer is left out.
        between_layers: the configuration's names for what a model computes between its layers, 0 for nothing.
        fused_attention: whether transformers can give its attention to a fused kernel.
        first_position: where a row's positions begin, of a configuration; what stands before them is not readable.
        image_marks: tokens that stand before an image's patches.
        packs: whether positions that begin anew inside a row keep its texts apart, see `tasks/packing.py`.
        finish_tokenizer: makes a folder's tokenizer mark texts as the model's heads need it.
        finish_model: mends what a model of transformers cannot do as it is.
    """

    model_type: str
    views: tuple[LayerView, ...]
    heads: Heads
    lora_targets: str
    ia3_targets: str
    ia3_feedforward: str
    activation: str = "hidden_act"
    dropout: str = "hidden_dropout_prob"
    layer_drop: tuple[str, ...] = ()
    between_layers: tuple[str, ...] = ()
    fused_attention: bool = True
    first_position: Callable[[PreTrainedConfig], int] = lambda config: 0
    image_marks: int = 1
    packs: bool = False
    finish_tokenizer: Callable[[PreTrainedTokenizerBase, PreTrainedConfig], None] = lambda tokenizer, config: None
    finish_model: Callable[[PreTrainedModel], None] = lambda model: None

    def depth(self, model: PreTrainedModel) -> int:
        """Returns how many layers a model has, all stacks together."""
        return sum(len(view.layers(model)) for view in self.views)

    def positions(self, config: PreTrainedConfig) -> int:
        """Returns how many tokens a model reads in a row; of images, how many it makes of each."""
        if Head.image in self.heads:
            return (config.image_size // config.patch_size) ** 2 + self.image_marks
        return config.max_position_embeddings - self.first_position(config)


def inner_model(model: Any) -> Any:
    """Returns the model of transformers inside one of peft, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def task_head(model: PreTrainedModel) -> list[str]:
    """Returns the names of the modules that stand on the base model for a task; they always train."""
    if model.base_model is model:
        return []  # a base model by itself: its pooler is its own
    return [name for name, _ in model.named_children() if name in TASK_HEADS]


def refuse_inputs(model_type: str, **kwargs: Any) -> None:
    """Refuses every argument that is set.

    Raises:
        UnsupportedInputError: one is.
    """
    for name, value in kwargs.items():
        if value is not None and value is not False:
            reasons = dict.fromkeys(PACKED, ": nothing keeps packed texts apart here. Train without packing")
            kept = ": it keeps keys and values in a DynamicCache, without gradients. Give use_cache=False"
            reasons["past_key_values"] = kept
            raise UnsupportedInputError(
                f"the reversible stack of {model_type} does not carry the layer input {name!r}" + reasons.get(name, "")
            )
