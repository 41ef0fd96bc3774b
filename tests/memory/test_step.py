"""The columns of a step's memory, held against sums done by hand."""

import pytest
import torch
from torch import nn

from meft_runner.config import FullSettings
from meft_runner.memory import TrackedMeter, measure_step, probe
from tests.helpers.models import PEFT_METHODS, VARIANTS, batch, meft_settings, peft_settings, prepared

ROWS, WIDTH, LAYERS = 64, 256, 5
ACTIVATION = ROWS * WIDTH * 4


class Tower(nn.Module):
    """Linear layers, each of which keeps its input and, for tanh, its output."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))

    def forward(self, x):
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x.sum()


def measured(model, optimizer_class, **kwargs):
    x = torch.randn(ROWS, WIDTH)
    return measure_step(model, optimizer_class(model.parameters(), **kwargs), lambda: model(x), TrackedMeter())


def test_columns_of_a_tower():
    weight = WIDTH * WIDTH * 4
    memory = measured(Tower(), torch.optim.AdamW, lr=1e-3)
    assert memory.parameters_bytes == LAYERS * weight
    assert memory.optimizer_bytes == LAYERS * (2 * weight + 512)  # two moments and a step count each
    assert memory.retained_after_forward_bytes == LAYERS * ACTIVATION + 512  # tanh's results, and the loss
    parts = memory.parameters_bytes + memory.gradients_bytes + memory.optimizer_bytes + memory.activations_bytes
    assert parts == memory.peak_bytes
    held = memory.parameters_bytes + memory.optimizer_bytes
    assert memory.activation_paper_bytes == memory.peak_bytes - held


def test_the_batch_is_left_out():
    model, x = Tower(), torch.randn(ROWS, WIDTH)
    optimizer = torch.optim.SGD(model.parameters())
    plain = measure_step(model, optimizer, lambda: model(x), TrackedMeter())
    viewed = measure_step(model, optimizer, lambda: model(x.view(ROWS, WIDTH)), TrackedMeter())
    assert plain == viewed


def test_accumulated_gradients_are_there_from_the_start():
    model, x = Tower(), torch.randn(ROWS, WIDTH)
    optimizer = torch.optim.SGD(model.parameters())
    one = measure_step(model, optimizer, lambda: model(x), TrackedMeter())
    more = measure_step(model, optimizer, lambda: model(x), TrackedMeter(), accumulating=True)
    assert more.gradients_bytes == more.parameters_bytes
    assert more.peak_bytes > one.peak_bytes


def test_an_optimizer_without_state():
    memory = measured(Tower(), torch.optim.SGD, lr=1e-3)
    assert memory.optimizer_bytes == 0


def test_gradients_of_full_fine_tuning_are_seen_where_they_are_the_peak():
    model = nn.Linear(1000, 1000, bias=False)
    x = torch.randn(2, 1000)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    memory = measure_step(model, optimizer, lambda: model(x).sum(), TrackedMeter())
    assert memory.gradients_bytes == 4_000_256


@pytest.mark.parametrize("variant", [pytest.param(v, marks=() if v == "meft1" else pytest.mark.slow) for v in VARIANTS])
@pytest.mark.slow
def test_retained_memory_grows_by_the_remainders_alone(variant):
    rows, length, hidden, growth = 8, 32, 64, {}
    for reversal in ("exact", "stored"):
        retained = []
        for layers in (4, 8):
            model = prepared(meft_settings(variant, reversal), layers=layers)
            retained.append(probe(model, batch(rows=rows, length=length), None).retained_after_forward_bytes)
        growth[reversal] = (retained[1] - retained[0]) / 4
    streams = 2 if variant == "meft3" else 1
    assert growth["exact"] == streams * rows * length * hidden // 2  # checksums are one small tensor for all layers
    assert growth["stored"] > 20 * growth["exact"]


@pytest.mark.parametrize(
    ("name", "scale", "values_a_byte"),
    [
        ("lora", "1/16", 2),
        *(pytest.param(name, "1/256", 1, marks=pytest.mark.slow) for name in PEFT_METHODS),
    ],
)
def test_a_delay_retains_the_remainders_of_one_stream(name, scale, values_a_byte):
    rows, length, hidden, retained = 8, 32, 64, []
    for layers in (4, 8):
        model = prepared(peft_settings(name, scale_1=scale), layers=layers)
        retained.append(probe(model, batch(rows=rows, length=length), None).retained_after_forward_bytes)
    assert (retained[1] - retained[0]) / 4 == rows * length * hidden // values_a_byte


def test_probing_changes_nothing():
    model = prepared(FullSettings(name="full", learning_rate=1e-3))
    before = {name: p.clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    memory = probe(model, batch(), None)
    assert memory.peak_bytes > memory.activations_bytes > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())


@pytest.mark.gpu
def test_cuda_and_tracked_figures_agree():
    from meft_runner.memory import CudaMeter

    figures = []
    for device, meter in (("cuda", CudaMeter(torch.device("cuda"))), ("cpu", TrackedMeter())):
        model = Tower().to(device)
        x = torch.randn(ROWS, WIDTH, device=device)
        optimizer = torch.optim.AdamW(model.parameters())
        figures.append(measure_step(model, optimizer, lambda model=model, x=x: model(x), meter))
    assert figures[0].parameters_bytes == figures[1].parameters_bytes
    assert figures[0].retained_after_forward_bytes == pytest.approx(figures[1].retained_after_forward_bytes, rel=0.05)
