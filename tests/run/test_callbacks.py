"""What stops a training: a loss or gradient that is no number, and trained parameters without a gradient."""

import math

import pytest
import torch

from meft_runner.run import lifecycle
from meft_runner.run.callbacks import FirstGradients, GradientError, LossWatch, NotFiniteError
from meft_runner.run.folder import run_directory
from tests.helpers.composed import tiny
from tests.helpers.models import batch, meft_settings, prepared


def test_gradients_are_checked_once():
    model = prepared(meft_settings())
    check = FirstGradients(scaled=False)
    with pytest.raises(GradientError, match=r"adapter.down.weight \(none\)"):
        check.on_pre_optimizer_step(None, None, None, model=model)
    check.on_pre_optimizer_step(None, None, None, model=model)  # later steps are not looked at


def test_a_loss_scaler_may_first_look_for_its_scale():
    model = prepared(meft_settings())
    model(**batch()).loss.backward()
    model.classifier.bias.grad.fill_(float("inf"))
    check = FirstGradients(scaled=True)
    check.on_pre_optimizer_step(None, None, None, model=model)
    assert not check.done
    with pytest.raises(NotFiniteError, match=r"gradient of classifier.bias is not finite in the first step"):
        FirstGradients(scaled=False).on_pre_optimizer_step(None, None, None, model=model)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_loss_that_is_not_finite_stops_with_step_value_and_advice(loss, precision):
    watch = LossWatch(0.02, precision)
    watch.see(torch.tensor(0.5), 6)
    assert watch.latest == 0.5
    with pytest.raises(NotFiniteError) as caught:
        watch.see(torch.tensor(loss), 7)
    start = f"the training loss is {loss:g} at step 7 (training.learning_rate=0.02). Try a smaller one, such as "
    advice = ", or training.precision=bf16 or fp32." if precision == "fp16" else "."
    assert str(caught.value) == f"{start}training.learning_rate=0.002{advice}"


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("full", r"the training loss is (nan|inf) at step \d+ \(training.learning_rate=1000\)\. Try a smaller one"),
        ("meft1", r"step \d+: the streams .* Lower training.learning_rate"),
    ],
)
@pytest.mark.thin(2)
def test_a_run_that_diverges_is_recorded_as_failed(method, message, rte_folder, tmp_path):
    wild = ("training.learning_rate=1000", "training.warmup=0", "training.max_steps=60", f"method={method}")
    chosen = tiny(rte_folder, tmp_path, *wild)
    with pytest.raises(NotFiniteError, match=message) as caught:
        lifecycle.run(chosen)
    record = (run_directory(chosen) / "record.json").read_text()
    assert '"status": "failed"' in record
    assert str(caught.value) in record
    assert "\n" not in str(caught.value)
