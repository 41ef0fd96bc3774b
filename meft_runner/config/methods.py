"""Methods: ways of fine-tuning."""

import math
from dataclasses import dataclass
from enum import Enum
from fractions import Fraction
from typing import Any

from omegaconf import MISSING

from meft_runner.config.directory import read_group
from meft_runner.config.fields import COUNT, setting
from meft_runner.errors import UserError

Reversal = Enum("Reversal", ["exact", "float", "stored"])
PeftReversal = Enum("PeftReversal", ["off", "exact", "float", "stored"])
_REVERSED = {"method.reversal": ("exact", "float", "stored")}
_ON_THE_GRID = {"method.reversal": ("exact", "stored")}
_CHECKED = {"method.reversal": ("exact",)}
KEEPS_MEAN = "1-scale"  # the mu with which a stream's next state is a weighted mean
LEARNED = "learned"
_LARGEST_MU = 100
Half = tuple[Fraction, float]  # scale and mu of what is added to a stream


@dataclass
class MethodSettings:
    """A way of fine-tuning.

    Attributes:
        name: what is typed.
        learning_rate: the peak learning rate it is usually trained with.
    """

    name: str = setting(MISSING, fixed="Choose one with method=NAME.")
    learning_rate: float = setting(MISSING, (1e-12, 1e3), fixed="Set training.learning_rate.", beside=True)


@dataclass
class FullSettings(MethodSettings):
    """Every parameter trains.

    Attributes:
        checkpointing: recompute each layer's activations in backward.
    """

    checkpointing: bool = False


@dataclass
class PeftSettings(MethodSettings):
    """A method of peft that trains inside layers, which can be made reversible by a delay coupling.

    With reversal a layer F turns the streams (x1, x2) into (x2, scale_1 * x1 + mu * F(x2)).

    Attributes:
        checkpointing: recompute each layer's activations in backward.
        reversal: `off`, or how the activations of reversible layers come back in backward: `exact`, `float` (floating
            point) or `stored` (ordinary autograd).
        scale_1: lambda, as 1/256.
        mu: the factor of a layer's output, a number or `1-scale`.
        grid_bits: the exact streams' grid has step 2^-grid_bits.
        chunks: in which a layer computes a batch; more take less memory, None for about 1,024 tokens in each.
        strict: stop when a rebuilt stream differs, instead of counting.
    """

    checkpointing: bool = setting(False, only={"method.reversal": ("off",)})
    reversal: PeftReversal = setting(PeftReversal.off, later=True)
    scale_1: str = setting("1/256", only=_REVERSED)
    mu: str = setting(KEEPS_MEAN, only=_REVERSED)
    grid_bits: int = setting(16, (4, 24), only=_ON_THE_GRID)
    chunks: int | None = setting(None, COUNT, only=_REVERSED)
    strict: bool = setting(True, only=_CHECKED)

    @property
    def halves(self) -> tuple[Half, ...]:
        """Scale and mu of the only half of a delay coupling that changes a stream.

        Raises:
            UserError: one of them is no number above 0.
        """
        return (_parse_half("method.scale_1", self.scale_1, self.mu),)


@dataclass
class LoraSettings(PeftSettings):
    """Low-rank updates of the query and value projections (arXiv 2106.09685), through peft.

    Attributes:
        rank: rank of the update.
        alpha: the update is scaled by alpha / rank.
        dropout: dropout on the update's input.
        decomposed: the magnitude of a weight's columns trains besides (DoRA, arXiv 2402.09353).
        init_constant: value at which the update's zero matrix starts; None for 0.
        init_noise: standard deviation of noise that is added to it; None for none.
    """

    rank: int = setting(8, (1, 10**6))
    alpha: int = setting(16, (1, 10**6))
    dropout: float = setting(0.0, (0, 0.99))
    decomposed: bool = setting(False, fixed="Choose method=lora or method=dora.", later=True)
    init_constant: float | None = setting(None, (-1e6, 1e6))
    init_noise: float | None = setting(None, (0, 1e6))


@dataclass
class Ia3Settings(PeftSettings):
    """Learned rescaling of keys, values and inner MLP activations (arXiv 2205.05638), through peft.

    Attributes:
        init_constant: value at which the factors start; None for 1.
        init_noise: standard deviation of noise that is added to them; None for none.
    """

    init_constant: float | None = setting(None, (-1e6, 1e6))
    init_noise: float | None = setting(None, (0, 1e6))


@dataclass
class VeraSettings(PeftSettings):
    """Trained scales of low-rank updates that are random and shared by all layers (arXiv 2310.11454), through peft.

    Attributes:
        rank: rank of the update.
    """

    rank: int = setting(256, (1, 10**6))


@dataclass
class MeftSettings(MethodSettings):
    """Adapters that make the model reversible (arXiv 2306.00477).

    Attributes:
        variant: the method whose functions and order of streams it takes; None for its own name.
        reversal: `exact`, `float` (the paper's arithmetic) or `stored` (ordinary autograd).
        adapter_dim: inner width r of an adapter.
        adapter_dropout: dropout inside an adapter; None for the backbone's own.
        adapter_factor: an adapter's output is multiplied by it.
        zero_start: an adapter's second matrix starts at zero, so that the adapter starts as nothing.
        scale_1: lambda, as 1/10 or 0.1.
        scale_2: beta.
        mu: the factor of what is added to a scaled stream: a number, or `1-scale`.
        merge: weights of the two streams after the last block, or `learned`: from the output stream alone on.
        frozen_layers: bottom layers that stay plain and frozen.
        grid_bits: the exact streams' grid has step 2^-grid_bits.
        chunks: in which a layer computes a batch; more take less memory, None for about 1,024 tokens in each.
        strict: stop when a rebuilt stream differs, instead of counting.
    """

    variant: str | None = setting(None, fixed="Choose one with method=NAME.", beside=True)
    reversal: Reversal = Reversal.exact
    adapter_dim: int = setting(8, (1, 10**6))
    adapter_dropout: float | None = setting(None, (0, 0.99))
    adapter_factor: float = setting(1.0, (1e-3, 1e3), later=True)
    zero_start: bool = setting(False, later=True)
    scale_1: str = MISSING
    scale_2: str = MISSING
    mu: str = setting("1", later=True)
    merge: Any = MISSING
    frozen_layers: int = setting(0, (0, 10**6))
    grid_bits: int = setting(16, (4, 24), only=_ON_THE_GRID)
    chunks: int | None = setting(None, COUNT)
    strict: bool = setting(True, only=_CHECKED)

    @property
    def halves(self) -> tuple[Half, ...]:
        """Scale and mu of the first and of the second half of a block.

        Raises:
            UserError: one of them is no number above 0.
        """
        scales = {"method.scale_1": self.scale_1, "method.scale_2": self.scale_2}
        return tuple(_parse_half(key, scale, self.mu) for key, scale in scales.items())

    @property
    def merge_weights(self) -> tuple[float, float] | None:
        """The weights of the two streams after the last block, None where they are learned.

        Raises:
            UserError: they are not two numbers, or both are zero.
        """
        if self.merge == LEARNED:
            return None
        given = self.merge if isinstance(self.merge, list) else [self.merge]
        weights = [float(each) if isinstance(each, int | float) else each for each in given]
        if len(weights) != 2 or not all(isinstance(w, float) and math.isfinite(w) for w in weights) or not any(weights):
            raise UserError(
                f"method.merge={weights}: expected two weights, not both 0, for instance [0.5,0.5], or {LEARNED}."
            )
        return weights[0], weights[1]


def parse_scale(key: str, text: str) -> Fraction:
    """Reads a scale such as "1/10" or "0.1".

    Raises:
        UserError: it is no number above 0.
    """
    scale = _number(text)
    if scale <= 0:
        raise UserError(f"{key}={text}: expected a number above 0, written as 1/10 or 0.1.")
    return scale


def _parse_half(key: str, scale_text: str, mu_text: str) -> Half:
    """Reads the scale of a half and its mu, which is 1 where the stream goes on whole."""
    scale, word = parse_scale(key, scale_text), mu_text.replace(" ", "") == KEEPS_MEAN
    mu = 1 - scale if word else _number(mu_text)
    if scale == 1 and (word or mu > 0):
        return scale, 1.0
    if not 0 < mu <= _LARGEST_MU:
        where = f" with {key}={scale_text}" if word else ""
        raise UserError(
            f"method.mu={mu_text}{where}: expected a number above 0, at most {_LARGEST_MU}, as 255/256 or 0.99, "
            f"or {KEEPS_MEAN} where scales are below 1."
        )
    return scale, float(mu)


def _number(text: str) -> Fraction:
    """Returns a fraction or decimal number, 0 for what is none."""
    try:
        return Fraction(text.replace(" ", ""))
    except (ValueError, ZeroDivisionError):
        return Fraction(0)


METHOD_KINDS: dict[str, type[MethodSettings]] = {
    "full": FullSettings,
    "lora": LoraSettings,
    "ia3": Ia3Settings,
    "vera": VeraSettings,
    "meft": MeftSettings,
}  # a file of conf/method begins with `_<kind>_schema`

# What can be typed as `method=`, and its settings: the files of conf/method in the order of their kinds.
METHODS: dict[str, type[MethodSettings]] = {
    name: METHOD_KINDS[content["kind"]]
    for name, content in sorted(
        read_group("method").items(), key=lambda item: (list(METHOD_KINDS).index(item[1]["kind"]), item[0])
    )
}
