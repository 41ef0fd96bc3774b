"""What `reversal_report` says, against what a backward pass really keeps."""

import pytest
import torch

import meft_runner
from tests.helpers.interface import batch_of, made
from tests.helpers.models import tiny_model

CASES = [("bert", "lora", {}), ("bert", "meft3", {"stored_layers": 1}), ("bart", "meft1", {"scale_1": "1/100"})]


@pytest.mark.parametrize(("kind", "how", "settings"), CASES)
def test_what_is_kept_is_what_autograd_saves(kind, how, settings):
    model = made(kind, how, **settings)
    kept = []

    def pack(tensor):
        if tensor.dtype in (torch.int32, torch.uint8) and tensor.dim() == 3:  # streams and packed remainders
            kept.append(tensor.nbytes)
        return tensor

    batch = batch_of(kind)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**batch).loss
    report = meft_runner.reversal_report(model)
    assert report.kept_bytes_per_token * batch["input_ids"].numel() == sum(kept)
    assert report.checked_steps == 0
    loss.backward()
    report = meft_runner.reversal_report(model)
    assert (report.checked_steps, report.mismatches, report.max_error) == (1, 0, 0.0)
    assert report.stored_layers == settings.get("stored_layers", 0)


def test_it_reads_well():
    model = made("bert", "lora")
    model(**batch_of("bert")).loss.backward()
    assert str(meft_runner.reversal_report(model)).splitlines() == [
        "reversal         exact: (x1, x2) <- (x2, 1/256 x1 + 255/256 F(x2))",
        "layers           2 rebuilt in backward",
        "kept             640 bytes a token between forward and backward",
        "backward passes  1 checked, 0 mismatches, largest error 0",
    ]
    coupling = "y1 = 1/10 x1 + F(x2), y2 = x2 + G(y1), (x1, x2) <- (y2, y1)"
    assert meft_runner.reversal_report(made("bert", "meft1")).coupling == coupling


def test_float_and_stored_streams_are_told_apart():
    assert meft_runner.reversal_report(made("bert", "meft1", reversal="stored")).kept_bytes_per_token == 0
    assert meft_runner.reversal_report(made("bert", "meft1", reversal="float")).kept_bytes_per_token == 2 * 64 * 4


def test_a_plain_model_has_nothing_to_report():
    with pytest.raises(ValueError, match="it is not reversible"):
        meft_runner.reversal_report(tiny_model())
    assert "make_reversible" in dir(meft_runner)
    with pytest.raises(AttributeError, match="no attribute 'make_irreversible'"):
        meft_runner.make_irreversible  # noqa: B018
