"""The one table of MEFT1-3, as the paper and its released code have it, and what reads it."""

import pytest
import torch

from meft_runner.config import METHODS
from meft_runner.methods.layers import AttentionBlock, MlpBlock, WholeLayer, reversible_stacks
from meft_runner.methods.variants import VARIANTS
from meft_runner.reports.labels import method_label
from tests.helpers.composed import settings
from tests.helpers.models import meft_settings, prepared
from tests.helpers.records import record

MERGES = [
    ("minilm", "task=demo", [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]),
    ("bart", "task=demo", [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]),
    ("opt", "task=piqa", [[0.1, 1.0], [1.0, 0.1], [0.1, 1.0]]),
    ("vit", "task=svhn", [[0.1, 1.0], [1.0, 0.1], [0.1, 1.0]]),
]


def test_lambda_and_beta_of_the_paper():
    composed = [settings(f"method={name}").method for name in ("meft1", "meft2", "meft3")]
    assert [(method.scale_1, method.scale_2) for method in composed] == [("1/10", "1"), ("1", "1/10"), ("1/10", "1/10")]


@pytest.mark.parametrize(("backbone", "task", "merges"), MERGES)
def test_the_streams_merge_by_where_the_layer_norm_stands(backbone, task, merges):
    composed = [settings(f"backbone={backbone}", task, f"method={name}").method for name in VARIANTS]
    assert [method.merge for method in composed] == merges


@pytest.mark.parametrize(("name", "kinds", "swap"), [
    ("meft1", (WholeLayer, "Adapter"), True),
    ("meft2", ("Adapter", WholeLayer), True),
    ("meft3", (AttentionBlock, MlpBlock), False),
])  # fmt: skip
def test_what_stands_in_f_and_g(name, kinds, swap):
    stack = reversible_stacks(prepared(meft_settings(name)))[0]
    block = stack.blocks[0]
    found = [type(branch).__name__ for branch in (block.f, block.g)]
    assert found == [kind if isinstance(kind, str) else kind.__name__ for kind in kinds]
    assert stack.coupling.swap is swap


def test_a_merge_of_ones_own_is_named_in_tables():
    assert method_label(record(0.5, "method=meft1")) == "meft1"
    assert method_label(record(0.5, "method=meft1", "method.merge=[0.1,1]")) == "meft1 (merge=[0.1, 1.0])"


def test_every_variant_can_be_typed_and_every_method_is_prepared():
    composed = {name: settings(f"method={name}").method for name in METHODS}
    assert set(VARIANTS) == {name for name, method in composed.items() if getattr(method, "variant", name) is None}
    for method in composed.values():
        assert isinstance(prepared(method), torch.nn.Module)


def test_a_preset_is_the_variant_that_it_names():
    stack = reversible_stacks(prepared(settings("method=meft3_start").method))[0]
    assert isinstance(stack.blocks[0].f, AttentionBlock)
    assert not stack.coupling.swap
