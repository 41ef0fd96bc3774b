"""Methods: ways of fine-tuning."""

from dataclasses import dataclass
from enum import Enum
from fractions import Fraction

from omegaconf import MISSING

from meft_runner.config.directory import read_group
from meft_runner.config.fields import COUNT, setting
from meft_runner.errors import UserError

Reversal = Enum("Reversal", ["exact", "float", "stored"])


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
class LoraSettings(MethodSettings):
    """Low-rank updates of the query and value projections (arXiv 2106.09685), through peft.

    Attributes:
        checkpointing: recompute each layer's activations in backward.
        rank: rank of the update.
        alpha: the update is scaled by alpha / rank.
        dropout: dropout on the update's input.
        init_constant: value at which the update's zero matrix starts; None for 0.
        init_noise: standard deviation of noise that is added to it; None for none.
    """

    checkpointing: bool = False
    rank: int = setting(8, (1, 10**6))
    alpha: int = setting(16, (1, 10**6))
    dropout: float = setting(0.0, (0, 0.99))
    init_constant: float | None = setting(None, (-1e6, 1e6))
    init_noise: float | None = setting(None, (0, 1e6))


@dataclass
class Ia3Settings(MethodSettings):
    """Learned rescaling of keys, values and inner MLP activations (arXiv 2205.05638), through peft.

    Attributes:
        checkpointing: recompute each layer's activations in backward.
        init_constant: value at which the factors start; None for 1.
        init_noise: standard deviation of noise that is added to them; None for none.
    """

    checkpointing: bool = False
    init_constant: float | None = setting(None, (-1e6, 1e6))
    init_noise: float | None = setting(None, (0, 1e6))


@dataclass
class MeftSettings(MethodSettings):
    """Adapters that make the model reversible (arXiv 2306.00477).

    Attributes:
        reversal: `exact`, `float` (the paper's arithmetic) or `stored` (ordinary autograd).
        adapter_dim: inner width r of an adapter.
        adapter_dropout: dropout inside an adapter; None for the backbone's own.
        scale_1: lambda, as 1/10 or 0.1.
        scale_2: beta.
        merge: weights of the two streams after the last block.
        frozen_layers: bottom layers that stay plain and frozen.
        grid_bits: the exact streams' grid has step 2^-grid_bits.
        chunks: in which a layer computes a batch; more take less memory, None for about 1,024 tokens in each.
        strict: stop when a rebuilt stream differs, instead of counting.
    """

    reversal: Reversal = Reversal.exact
    adapter_dim: int = setting(8, (1, 10**6))
    adapter_dropout: float | None = setting(None, (0, 0.99))
    scale_1: str = MISSING
    scale_2: str = MISSING
    merge: list[float] = MISSING
    frozen_layers: int = setting(0, (0, 10**6))
    grid_bits: int = setting(16, (4, 24), only={"method.reversal": ("exact", "stored")})
    chunks: int | None = setting(None, COUNT)
    strict: bool = setting(True, only={"method.reversal": ("exact",)})

    @property
    def scales(self) -> tuple[Fraction, Fraction]:
        """Lambda and beta as exact numbers.

        Raises:
            UserError: one of them is no number above 0.
        """
        return parse_scale("method.scale_1", self.scale_1), parse_scale("method.scale_2", self.scale_2)


def parse_scale(key: str, text: str) -> Fraction:
    """Reads a scale such as "1/10" or "0.1".

    Raises:
        UserError: it is no number above 0.
    """
    try:
        scale = Fraction(text.replace(" ", ""))
    except (ValueError, ZeroDivisionError):
        scale = Fraction(0)
    if scale <= 0:
        raise UserError(f"{key}={text}: expected a number above 0, written as 1/10 or 0.1.")
    return scale


METHOD_KINDS: dict[str, type[MethodSettings]] = {
    "full": FullSettings,
    "lora": LoraSettings,
    "ia3": Ia3Settings,
    "meft": MeftSettings,
}  # a file of conf/method begins with `_<kind>_schema`

# What can be typed as `method=`, and its settings: the files of conf/method in the order of their kinds.
METHODS: dict[str, type[MethodSettings]] = {
    name: METHOD_KINDS[content["kind"]]
    for name, content in sorted(
        read_group("method").items(), key=lambda item: (list(METHOD_KINDS).index(item[1]["kind"]), item[0])
    )
}
