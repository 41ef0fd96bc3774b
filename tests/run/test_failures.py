"""Memory that runs out, in one line that says what would fit."""

from types import SimpleNamespace

import pytest
import torch

from meft_runner.errors import UserError
from meft_runner.reversible.monitor import StreamOverflowError
from meft_runner.run import lifecycle, measuring
from meft_runner.run.failures import explained
from meft_runner.run.folder import run_directory
from tests.helpers.composed import settings, tiny

CPU = torch.device("cpu")


def allocate_too_much():
    torch.empty(2**60, dtype=torch.int8)


def raise_(error):
    raise error


@pytest.mark.parametrize(
    "fail",
    [
        allocate_too_much,
        lambda: raise_(MemoryError()),
        lambda: raise_(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")),
        lambda: raise_(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")),
    ],
)
def test_every_kind_of_memory_error_is_one_line(fail):
    with pytest.raises(UserError) as caught, explained(settings("method=full", "training.batch_size=64"), CPU):
        fail()
    message = str(caught.value)
    assert message.startswith("out of memory: minilm with method=full and training.batch_size=64 does not fit")
    assert "Try training.batch_size=32 or method=meft1; meft-memory backbone=minilm method=[full,meft1] fit=" in message
    assert "\n" not in message


def test_rows_scored_at_once_are_named_where_they_are_more_than_those_that_train():
    chosen = settings("method=full", "training.batch_size=2", "training.eval_batch_size=64")
    with pytest.raises(UserError) as caught, explained(chosen, CPU):
        raise MemoryError
    message = str(caught.value)
    assert "and training.batch_size=2, training.eval_batch_size=64 does not fit" in message
    assert "Try training.batch_size=1 or training.eval_batch_size=2 or method=meft1; meft-memory" in message


def test_reversal_is_the_first_advice_to_a_method_that_can_have_it():
    with pytest.raises(UserError) as caught, explained(settings("method=ia3"), CPU):
        raise MemoryError
    message = str(caught.value)
    assert "Try method.reversal=exact or method=meft1 or training.batch_size=8; meft-memory" in message
    assert "meft-memory backbone=minilm method=[ia3,meft1] method.reversal=exact fit=" in message


@pytest.mark.parametrize("typed", ["method=lora method.reversal=exact", "method=meft1_start"])
def test_what_is_reversible_is_not_advised_to_be(typed):
    with (
        pytest.raises(UserError, match=r"Try training.batch_size=8; meft-memory"),
        explained(settings(*typed.split()), CPU),
    ):
        raise MemoryError


@pytest.mark.parametrize(("typed", "advice"), [
    ("method=meft1", "into this GPU. Try method.offload=true or training.batch_size=8; meft-memory"),
    ("method=lora method.reversal=exact", "into this GPU. Try method.offload=true or training.batch_size=8;"),
    ("method=meft1 method.reversal=float", "into this GPU. Try training.batch_size=8;"),
    ("method=meft1 method.offload=true", "GPU, or what waits on the host not into its memory. Try training.batch_"),
    ("method=full method.checkpointing=offload", "GPU, or what waits on the host not into its memory. Try training."),
])  # fmt: skip
def test_a_gpu_s_memory_may_be_freed_of_what_can_wait_on_the_host(typed, advice, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=2**34))
    with pytest.raises(UserError) as caught, explained(settings(*typed.split()), torch.device("cuda")):
        raise MemoryError
    assert advice in str(caught.value)


def test_what_cannot_be_smaller_is_not_advised():
    chosen = settings("method=meft1", "training.batch_size=1")
    with pytest.raises(UserError, match=r"Try a smaller model; meft-memory"), explained(chosen, CPU):
        raise MemoryError


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), ValueError("x"), KeyboardInterrupt()])
def test_other_errors_stay_what_they_are(error):
    with pytest.raises(type(error)) as caught, explained(settings(), CPU):
        raise error
    assert caught.value is error


def test_streams_that_leave_their_grid_are_the_users_to_mend():
    with pytest.raises(UserError, match="the streams reach"), explained(settings(), CPU):
        raise StreamOverflowError("the streams reach 1e9")


def test_a_batch_that_no_memory_holds_is_refused_before_it_is_made(rte_folder, tmp_path, monkeypatch):
    chosen = tiny(rte_folder, tmp_path, "training.batch_size=40")
    monkeypatch.setattr(measuring, "LARGE", 40)
    monkeypatch.setattr(measuring, "free_memory", lambda: 2**20)
    with pytest.raises(UserError, match=r"out of memory: roberta .* Try training.batch_size=20; meft-memory"):
        lifecycle.run(chosen)
    assert '"status": "failed"' in (run_directory(chosen) / "record.json").read_text()
