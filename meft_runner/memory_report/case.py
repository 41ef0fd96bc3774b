"""One training step whose memory is asked for, and the configuration of its model."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig

from meft_runner.backbones import FAMILIES, positions
from meft_runner.backbones.loading import load_config
from meft_runner.backbones.repeat import multiply_depth, set_depth
from meft_runner.config import (
    BackboneSettings,
    Head,
    Kernel,
    MethodSettings,
    Precision,
    ReversibleSettings,
)
from meft_runner.config.fields import COUNT, as_typed
from meft_runner.config.methods import with_reversal
from meft_runner.errors import UserError
from meft_runner.memory.sampling import MOST_CHUNKS

_USUAL_CHUNK = 1024  # tokens; see reversible.chunks
_MOST_LAYER_CHUNKS = 2**13  # each takes some hundredths of a second to predict
_SIZE_ERRORS = (  # of Python, torch and transformers
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
    StrictDataclassError,
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One training step whose memory is asked for.

    Attributes:
        backbone: the model; its sizes are read from its settings, or from a local folder's config.json.
        method: the fine-tuning method.
        batch_size: rows.
        length: tokens a row; None for images, which have as many as the model makes of them.
        precision: of the forward pass.
        attention: the kernel of the machine that is asked about.
        accumulating: the step adds to the gradients of an earlier pass.
        depth: layers of each stack, None for the model's own.
        head: what the model is to do; None for what its family is usually trained to do.
    """

    backbone: BackboneSettings
    method: MethodSettings
    batch_size: int
    length: int | None
    precision: Precision = Precision.fp32
    attention: Kernel = Kernel.materialised
    accumulating: bool = False
    depth: int | None = None
    head: Head | None = None

    @property
    def checkpointing(self) -> str:
        """Which activations the method recomputes, as it is typed; reversible layers keep none."""
        return as_typed(getattr(self.method, "checkpointing", False))

    @property
    def task_head(self) -> Head:
        """What the model is to do: unless it is said, a decoder is a language model, others do their family's first."""
        first = next(iter(FAMILIES[self.backbone.model_types[0]].heads))
        return self.head or (Head.lm if Head.lm in self.backbone.heads else first)

    @property
    def reversal(self) -> str | None:
        """How activations come back in backward; None of a method that is never reversible."""
        mode = getattr(self.method, "reversal", None)
        return None if mode is None else str(mode.name)

    @property
    def offload(self) -> bool:
        """Whether what reversible layers keep waits on the host."""
        return self.reversal == "exact" and bool(getattr(self.method, "offload", False))

    @property
    def method_label(self) -> str:
        """What tables and figures call the method."""
        return method_label(self.method.name, self.checkpointing, self.reversal, self.offload)

    def config(self) -> PreTrainedConfig:
        """Returns the model's configuration.

        Raises:
            UserError: inputs of this length are longer than the model reads, or there is too much to predict.
        """
        config = model_config(self.backbone)
        if self.depth is not None:
            set_depth(config, self.depth)
        with sizes_of(self.backbone):
            tokens = positions(config)
        if self.length is not None and self.length > tokens:
            raise UserError(f"length={self.length}: {self.backbone.name} reads at most {tokens} tokens.")
        if self.length is None and tokens <= FAMILIES[config.model_type].image_marks:
            raise UserError(
                f"backbone.config: {self.backbone.name} makes no patch of images of {config.image_size} pixels."
            )
        layers, chunks, stored = config.num_hidden_layers, 1, 0
        tokens = self.batch_size * (self.length or tokens)
        if isinstance(self.method, ReversibleSettings) and self.method.reverses:
            chunks = usual_chunks(self.method.chunks, tokens)
            stored = layers if self.reversal == "stored" else min(layers, self.method.stored_layers)
        check_chunks(self.batch_size, layers, stored, chunks)
        return config


def usual_chunks(chunks: int | None, tokens: int) -> int:
    """Returns in how many chunks reversible layers compute a batch of so many tokens, given the setting."""
    return min(chunks or -(-tokens // _USUAL_CHUNK), tokens)


def check_chunks(batch: int, layers: int, stored: int, chunks: int) -> None:
    """Makes sure that a step is predicted within minutes.

    Args:
        batch: rows.
        layers: of the model.
        stored: of them those of a reversible stack that keep their activations, whose chunks are all followed.
        chunks: in which each layer computes the batch.

    Raises:
        UserError: there is too much to predict.
    """
    if stored * chunks + (layers - stored) * min(chunks, MOST_CHUNKS) > _MOST_LAYER_CHUNKS:
        raise UserError(
            f"batch={batch}: {layers} layers, each computed in {chunks} chunks, are too many to predict. "
            "Take a smaller batch, with which memory grows evenly, or fewer method.chunks or layers."
        )


def method_label(name: str, checkpointing: str, reversal: str | None, offload: bool) -> str:
    """Returns what tables and figures call a method: `meft1 + offload`, `lora + checkpointing (offload)`."""
    kind = {"false": "", "true": " + checkpointing"}.get(checkpointing, f" + checkpointing ({checkpointing})")
    return with_reversal(name, reversal) + kind + (" + offload" if offload else "")


def model_config(backbone: BackboneSettings) -> PreTrainedConfig:
    """Returns a backbone's configuration, of a local folder or of the sizes in its settings; nothing is downloaded.

    Raises:
        UserError: there is none in the folder, or the sizes are none.
    """
    if backbone.path is not None:
        if not Path(backbone.path, "config.json").is_file():
            raise UserError(f"backbone.path={backbone.path}: no config.json there. Give a folder of save_pretrained.")
        config = load_config(backbone, backbone.path)
    else:
        _check_sizes(backbone)
        with sizes_of(backbone):
            config = AutoConfig.for_model(backbone.model_types[0], **backbone.config)
    config.use_cache = False
    multiply_depth(config, backbone.repeat or 1)
    return config


def _check_sizes(backbone: BackboneSettings) -> None:
    for name, value in backbone.config.items():
        low, high = (0 if name.endswith("_id") else 1), COUNT[1]
        if type(value) is int and not low <= value <= high:
            raise UserError(f"backbone.config.{name}={value}: expected {low} to {high}.")


def sizes_of(backbone: BackboneSettings) -> AbstractContextManager[None]:
    """Explains what transformers and torch raise inside where a model's sizes do not fit each other.

    Raises:
        UserError: they do not.
    """
    key = "backbone.config" if backbone.path is None else f"backbone.path={backbone.path}"
    return fitting_sizes(key, backbone.name)


@contextmanager
def fitting_sizes(key: str, name: str) -> Iterator[None]:
    """Explains what transformers and torch raise inside where the sizes of a model do not fit each other.

    Raises:
        UserError: they do not.
    """
    try:
        yield
    except _SIZE_ERRORS as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{key}: {name} cannot be made with these sizes ({reason}).") from error
