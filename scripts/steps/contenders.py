"""The methods whose training steps are compared."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch

VARIANTS = ("meft1", "meft2", "meft3")
EVERY_4 = "lora + checkpointing (every_4)"
OFFLOADED = "lora + checkpointing (offload)"
REFERENCES = ("full", "lora", "lora + checkpointing", EVERY_4, OFFLOADED)
CURVES = (*(f"{variant} exact" for variant in VARIANTS), "lora exact, 1/16")


@dataclass(frozen=True)
class Contender:
    """A method as it is compared.

    Attributes:
        method: what tables and figures call it.
        overrides: what is typed for it.
        kept: its top layers that keep ordinary graphs; None of a method that reverses nothing.
    """

    method: str
    overrides: tuple[str, ...]
    kept: int | None = None

    @property
    def name(self) -> str:
        """What it is called where it stands alone."""
        return f"{self.method}, {self.kept} kept" if self.kept else self.method


def contenders(layers: int, on_gpu: bool) -> list[Contender]:
    """Returns all that can be compared on a model of so many layers, which reverse all of them or some.

    Checkpointing with offload moves tensors out of a GPU's memory: elsewhere it does nothing.
    """
    kinds = {"full": "full", "lora": "lora", "full + checkpointing": "full", "lora + checkpointing": "lora"}
    found = [
        Contender(method, (f"method={name}", f"method.checkpointing={str(method != name).lower()}"))
        for method, name in kinds.items()
    ]
    found += [Contender(EVERY_4, ("method=lora", "method.checkpointing=every_4"))]
    if on_gpu:
        found += [Contender(OFFLOADED, ("method=lora", "method.checkpointing=offload"))]
    reversed_lora = ("method=lora", "method.reversal=exact")
    found += [Contender(f"lora exact, {n}", (*reversed_lora, f"method.scale_1={n}"), 0) for n in ("1/256", "1/16")]
    found += [Contender(f"{variant} exact", (f"method={variant}",), 0) for variant in VARIANTS]
    found += [each for one in found if one.method in CURVES for each in keeping(one, layers)]
    for chunks in (2, 4):
        found += [Contender(f"meft1 exact, {chunks} chunks", ("method=meft1", f"method.chunks={chunks}"), 0)]
    return found + [Contender(f"{name} float", (f"method={name}", "method.reversal=float"), 0) for name in VARIANTS]


def keeping(contender: Contender, layers: int) -> list[Contender]:
    """Returns a reversible method with a quarter, a half, three quarters and all of its layers kept."""
    counts = dict.fromkeys(layers * quarters // 4 for quarters in (1, 2, 3, 4))
    return [
        replace(contender, overrides=(*contender.overrides, f"method.stored_layers={kept}"), kept=kept)
        for kept in counts
        if kept
    ]


def chosen(found: Iterable[Contender], patterns: Sequence[str]) -> list[Contender]:
    """Returns those whose names match one of the patterns, such as `lora*`."""
    return [each for each in found if any(fnmatch(each.name, pattern) for pattern in patterns)]
