"""The one table of MEFT's variants (arXiv 2306.00477): what is typed as `method=`, and what follows from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from meft_runner.config import MeftSettings, Norm

# What stands in F or in G; the order is that in which a layer's adapters are drawn.
Branch = Enum("Branch", ["layer", "adapter", "attention", "mlp"])


@dataclass(frozen=True)
class Variant:
    """A block y1 = lambda * x1 + F(x2), y2 = beta * x2 + G(y1).

    `layer` is the whole pre-trained layer with an adapter beside its MLP, `adapter` an adapter alone, `attention` and
    `mlp` are the layer's two blocks with an adapter each.

    Attributes:
        f: F.
        g: G, another one.
        scale_1: lambda.
        scale_2: beta.
        swap: whether the next block takes (y2, y1).
        merge: the weights of the two streams after the last block, by where a layer has its LayerNorm.
    """

    f: Branch
    g: Branch
    scale_1: str
    scale_2: str
    swap: bool
    merge: Mapping[Norm, tuple[float, float]]

    @property
    def output(self) -> tuple[float, float]:
        """The merge weights that take the last output of the pre-trained layers alone, which stands in one stream."""
        first_stream = (self.g is Branch.adapter) != self.swap
        return (1.0, 0.0) if first_stream else (0.0, 1.0)


# As in the released code: encoders weigh the streams alike, in OPT the one that carries the layers' output weighs 1.
_FIRST_SMALL = {Norm.post: (0.5, 0.5), Norm.pre: (0.1, 1.0)}
_SECOND_SMALL = {Norm.post: (0.5, 0.5), Norm.pre: (1.0, 0.1)}

VARIANTS = {
    "meft1": Variant(Branch.layer, Branch.adapter, "1/10", "1", swap=True, merge=_FIRST_SMALL),
    "meft2": Variant(Branch.adapter, Branch.layer, "1", "1/10", swap=True, merge=_SECOND_SMALL),
    "meft3": Variant(Branch.attention, Branch.mlp, "1/10", "1/10", swap=False, merge=_FIRST_SMALL),
}


def variant_of(method: MeftSettings) -> Variant:
    """Returns the variant that a method is, or is a preset of."""
    return VARIANTS[method.variant or method.name]
