"""Methods: ways of fine-tuning."""

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

from omegaconf import MISSING

from meft_runner.config.coupling import KEEPS_MEAN, Half, parse_half, parse_merge, parse_scale
from meft_runner.config.directory import read_group
from meft_runner.config.fields import COUNT, setting
from meft_runner.config.method_base import MethodSettings
from meft_runner.errors import UserError

Reversal = Enum("Reversal", ["exact", "float", "stored"])
PeftReversal = Enum("PeftReversal", ["off", "exact", "float", "stored"])
_REVERSED = {"method.reversal": ("exact", "float", "stored")}
KernelForm = Enum("KernelForm", ["auto", "plain", "fused"])
_ON_THE_GRID = {"method.reversal": ("exact", "stored")}
_CHECKED = {"method.reversal": ("exact",)}
_REBUILT = {"method.reversal": ("exact", "float")}
OFFLOAD = "offload"
# transformers' own, as they are typed; a run's settings and its record have the first two as booleans
Checkpointing = Enum("Checkpointing", {"false": False, "true": True, "offload": "offload", "every_4": "every_4"})
CHECKPOINTING = tuple(each.value for each in Checkpointing)
# What says what a training step keeps, as it is where trained weights are loaded.
KEEPS_NOTHING = {"checkpointing": False, "offload": False, "stored_layers": 0, "budget": None}


@dataclass
class FullSettings(MethodSettings):
    """Every parameter trains.

    Attributes:
        checkpointing: recompute each layer's activations in backward; with `offload` what a layer is computed from
            waits in host memory, with `every_4` three layers of four keep their activations.
    """

    checkpointing: Any = setting(False, words=CHECKPOINTING)


@dataclass
class ReversibleSettings(MethodSettings):
    """How layers are reversed: the settings of methods whose layers are, or can be made, reversible.

    Attributes:
        grid_bits: the exact streams' grid has step 2^-grid_bits.
        chunks: in which a layer computes a batch; more take less memory, None for about 1,024 tokens in each.
        strict: stop when a rebuilt stream differs, instead of counting.
        offload: what is kept of each layer waits in the host's memory for backward.
        kernels: the integers of exact streams are computed by one kernel a half (`fused`: Triton's on a GPU, Numba's
            on a CPU) or by operations of torch (`plain`), with the same results; `auto` is fused where that works.
        stored_layers: top layers that keep their activations, which takes memory and saves time.
        budget: as 8GiB, the memory of a training step; as many top layers keep their activations as it holds.
    """

    grid_bits: int = setting(16, (4, 24), only=_ON_THE_GRID)
    chunks: int | None = setting(None, COUNT, only=_REVERSED)
    strict: bool = setting(True, only=_CHECKED)
    offload: bool = setting(False, only=_CHECKED, later=True)
    kernels: KernelForm = setting(KernelForm.auto, only=_CHECKED, beside=True, later=True)
    stored_layers: int = setting(0, (0, 10**6), only={**_REBUILT, "method.budget": (None,)}, later=True)
    budget: str | None = setting(None, only=_REBUILT)


@dataclass
class PeftSettings(ReversibleSettings):
    """A method of peft that trains inside layers, which can be made reversible by a delay coupling.

    With reversal a layer F turns the streams (x1, x2) into (x2, scale_1 * x1 + mu * F(x2)).

    Attributes:
        checkpointing: as in `FullSettings`.
        reversal: `off`, or how the activations of reversible layers come back in backward: `exact`, `float` (floating
            point) or `stored` (ordinary autograd).
        scale_1: lambda, as 1/256.
        mu: the factor of a layer's output, a number or `1-scale`.
    """

    checkpointing: Any = setting(False, only={"method.reversal": ("off",)}, words=CHECKPOINTING)
    reversal: PeftReversal = setting(PeftReversal.off, later=True)
    scale_1: str = setting("1/256", only=_REVERSED)
    mu: str = setting(KEEPS_MEAN, only=_REVERSED)

    @property
    def reverses(self) -> bool:
        """Whether the layers are reversible."""
        return self.reversal is not PeftReversal.off

    @property
    def halves(self) -> tuple[Half, ...]:
        """Scale and mu of the only half of a delay coupling that changes a stream.

        Raises:
            UserError: one of them is no number above 0, or the scale is not below 1.
        """
        if parse_scale("method.scale_1", self.scale_1) >= 1:
            raise UserError(
                f"method.scale_1={self.scale_1}: expected a number below 1, the part of the layer before that goes "
                "into a layer's output. Take for instance 1/256."
            )
        return (parse_half("method.scale_1", self.scale_1, self.mu),)


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

    @property
    def version(self) -> int:
        """Of DoRA 2: weight decay leaves its magnitudes alone."""
        return 2 if self.decomposed else 1


@dataclass
class Ia3Settings(PeftSettings):
    """Learned rescaling of keys, values and inner MLP activations (arXiv 2205.05638), through peft.

    Attributes:
        init_constant: value at which the factors start; None for 1.
        init_noise: standard deviation of noise that is added to them; None for none.
    """

    init_constant: float | None = setting(None, (-1e6, 1e6))
    init_noise: float | None = setting(None, (0, 1e6))

    @property
    def version(self) -> int:
        """2: weight decay leaves the factors alone."""
        return 2


@dataclass
class VeraSettings(PeftSettings):
    """Trained scales of low-rank updates that are random and shared by all layers (arXiv 2310.11454), through peft.

    Attributes:
        rank: rank of the update.
    """

    rank: int = setting(256, (1, 10**6))


@dataclass
class MeftSettings(ReversibleSettings):
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

    @property
    def reverses(self) -> bool:
        """Whether layers are reversible: they always are."""
        return True

    @property
    def halves(self) -> tuple[Half, ...]:
        """Scale and mu of the first and of the second half of a block.

        Raises:
            UserError: one of them is no number above 0.
        """
        scales = {"method.scale_1": self.scale_1, "method.scale_2": self.scale_2}
        return tuple(parse_half(key, scale, self.mu) for key, scale in scales.items())

    @property
    def merge_weights(self) -> tuple[float, float] | None:
        """The weights of the two streams after the last block, None where they are learned.

        Raises:
            UserError: they are not two numbers, or both are zero.
        """
        return parse_merge(self.merge)


METHOD_KINDS: dict[str, type[MethodSettings]] = {
    "full": FullSettings,
    "lora": LoraSettings,
    "ia3": Ia3Settings,
    "vera": VeraSettings,
    "meft": MeftSettings,
}  # a file of conf/method begins with `_<kind>_schema`

_ADDING_TOKENS = re.compile(r"(soft|multitask)?(prompt|prefix)s?(tuning)?|ptuningv?|adaptionprompt|cpt|cartridge")

# What can be typed as `method=`, and its settings: the files of conf/method in the order of their kinds.
METHODS: dict[str, type[MethodSettings]] = {
    name: METHOD_KINDS[content["kind"]]
    for name, content in sorted(
        read_group("method").items(), key=lambda item: (list(METHOD_KINDS).index(item[1]["kind"]), item[0])
    )
}


def with_reversal(name: str, reversal: str | None) -> str:
    """Returns a method's name, with its reversal where that is not the usual one: `lora (reversal=exact)`."""
    usual = getattr(METHODS[name], "reversal", None)
    return name if usual is None or reversal == usual.name else f"{name} (reversal={reversal})"


def adds_tokens(name: str) -> bool:
    """Tells whether a method of peft, however it is spelled, adds positions to the rows: `prompt_tuning`."""
    return _ADDING_TOKENS.fullmatch(re.sub(r"[^a-z]", "", name.lower())) is not None
