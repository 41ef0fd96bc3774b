"""What is kept for backward waits on the host: the order, the lifetimes and the values of what is copied."""

import gc
import weakref

import pytest
import torch

from meft_runner.memory import CudaMeter, TrackedMeter
from meft_runner.reversible import ExactStreams
from meft_runner.reversible.offload import Copy, CudaCopies, FromHost, PlainCopies, ToHost, _copy_stream, copies_by
from meft_runner.reversible.packing import pack
from tests.helpers.exactness import PRECISIONS, check_equal_to_stored, check_exactness, train_once
from tests.helpers.models import PEFT_METHODS, VARIANTS
from tests.helpers.toy import coupling, hidden_states, stack

CPU = torch.device("cpu")
QUICK = {("meft3", "bert"), ("meft1", "llama"), ("lora", "bert")}


class LateCopies(PlainCopies):
    """Copies as late as a GPU may: a result holds 255 everywhere until somebody waits for it, or for all of them.

    Its source is not held meanwhile: to be freed is to be written over.
    """

    def __init__(self, device=CPU):
        super().__init__(device)
        self.pending, self.log = [], []

    def to_host(self, tensor):
        return self.later("to host", tensor)

    def to_device(self, tensor):
        return self.later("to device", tensor)

    def finish(self):
        while self.pending:
            self.pending[0]()

    def later(self, name, source):
        target, source = torch.full_like(source, 255), weakref.ref(source)
        self.log.append(name)

        def make():
            if make in self.pending:
                while self.pending[0] is not make:  # one stream: in the order in which they were started
                    self.pending[0]()
                self.pending.remove(make)
                assert source() is not None, "freed before its copy was made"
                target.copy_(source())
                self.log.append(f"{name} done")

        self.pending.append(make)
        return Copy(target, make)


def step(module, hidden, seed=5):
    torch.manual_seed(seed)
    loss = module(hidden).square().sum()
    loss.backward()
    return loss.item(), [parameter.grad for parameter in module.parameters()]


TIES = {
    "meft1": coupling(), "meft2": coupling("1", "1/10"), "meft3": coupling("1/10", "1/10", swap=False),
    "8 bits": coupling("1/256", "1/7"), "nothing kept": coupling("1", "1"),
}  # fmt: skip


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("tie", TIES)
@pytest.mark.parametrize("copies", [PlainCopies, LateCopies])
def test_it_changes_nothing(copies, tie, chunks):
    found = {}
    for offload in (False, True):
        with copies_by(copies):
            found[offload] = step(stack(tie=TIES[tie], chunks=chunks, offload=offload), hidden_states())
    assert found[True][0] == found[False][0]
    assert all(torch.equal(*pair) for pair in zip(found[True][1], found[False][1], strict=True))


def test_each_one_comes_while_the_one_above_it_is_computed_with(monkeypatch):
    copies, revert = LateCopies(), ExactStreams.revert_

    def logged(self, stream, weights, *args):
        if weights.scale != 1:
            copies.log.append("undone")
        return revert(self, stream, weights, *args)

    monkeypatch.setattr(ExactStreams, "revert_", logged)
    with copies_by(lambda device: copies):
        step(stack(layers=3, offload=True), hidden_states())
    there, following = ["to host", "to host done"] * 3, ["to device done", "to device", "undone"]
    assert copies.log == [*there, "to device", *following * 2, "to device done", "undone"]
    assert not copies.pending


@pytest.mark.parametrize("fails_in", ["forward", "backward"])
def test_after_an_error_nothing_waits_and_the_next_step_is_right(fails_in, monkeypatch):
    copies, module, expected = LateCopies(), stack(offload=True), step(stack(), hidden_states())
    hosts = []
    monkeypatch.setattr(copies, "to_host", lambda tensor: held(hosts, copies.later("to host", tensor)))
    with copies_by(lambda device: copies):
        with monkeypatch.context() as patch:
            loss = module(hidden_states()).sum() if fails_in == "backward" else None
            last = module.blocks[-2 if fails_in == "backward" else 1].f
            patch.setattr(last, "forward", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                loss.backward() if fails_in == "backward" else module(hidden_states())
            assert not copies.pending
            del loss
        gc.collect()
        assert hosts
        assert all(host() is None for host in hosts)
        found = step(module, hidden_states())
    assert found[0] == expected[0]
    assert all(torch.equal(*pair) for pair in zip(found[1], expected[1], strict=True))


def held(hosts, copy):
    hosts.append(weakref.ref(copy.result))
    return copy


def test_two_forwards_before_one_backward():
    one, two = hidden_states(seed=1), hidden_states(seed=2)
    found = {}
    for offload in (False, True):
        module = stack(offload=offload)
        torch.manual_seed(5)
        with copies_by(LateCopies):
            (module(one).square().sum() + module(two).square().sum()).backward()
        found[offload] = [parameter.grad for parameter in module.parameters()]
    assert all(torch.equal(*pair) for pair in zip(*found.values(), strict=True))


def test_a_kept_graph_may_be_run_backward_again():
    found = {}
    for offload in (False, True):
        module = stack(offload=offload)
        torch.manual_seed(5)
        with copies_by(LateCopies):
            loss = module(hidden_states()).square().sum()
            loss.backward(retain_graph=True)
            loss.backward()
        found[offload] = [parameter.grad for parameter in module.parameters()]
    assert all(torch.equal(*pair) for pair in zip(*found.values(), strict=True))


def test_hooks_on_saved_tensors_see_what_is_on_the_host():
    module, expected = stack(offload=True), step(stack(), hidden_states())
    with copies_by(LateCopies), torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t.clone()):
        found = step(module, hidden_states())
    assert all(torch.equal(*pair) for pair in zip(found[1], expected[1], strict=True))


@pytest.mark.parametrize(("mode", "train"), [("stored", True), ("float", True), ("exact", False)])
def test_what_keeps_nothing_sends_nothing(mode, train):
    copies = LateCopies()
    with copies_by(lambda device: copies), torch.set_grad_enabled(train):
        stack(mode, offload=True)(hidden_states())
    assert not copies.log


@pytest.mark.parametrize("tie", TIES)
@pytest.mark.thin(2)
def test_what_waits_is_counted_on_the_host(tie):
    hidden = hidden_states(32, 16, 64)
    scales = [scale.denominator for scale in TIES[tie].scales if scale != 1]
    packed = sum(pack(torch.zeros(32, 16, 64, dtype=torch.int32), n).numel() for n in scales)
    kept = {}
    for offload in (False, True):
        module = stack(layers=5, hidden=64, tie=TIES[tie], offload=offload)
        with TrackedMeter() as meter:
            meter.follow([hidden, *module.parameters()])
            before = meter.live_bytes()
            loss = module(hidden).sum()
            kept[offload] = meter.live_bytes() - before
            assert meter.host_bytes() == (5 * packed if offload else 0)
            loss.backward()
            del loss
            gc.collect()
            assert meter.host_bytes() == 0
    assert kept[False] - kept[True] == 5 * packed


def test_a_copy_on_cuda_is_ordered_by_events(monkeypatch):
    """The order of a GPU's commands, on streams that write down what they are given."""
    log, allocate = [], torch.empty_like

    class Stream:
        def __init__(self, name):
            self.name = name

        def __enter__(self):
            log.append(f"in {self.name}")

        def __exit__(self, *_):
            log.append(f"out of {self.name}")

        def wait_stream(self, other):
            log.append(f"{self.name} waits for {other.name}")

        def record_event(self):
            return f"event of {self.name}"

        def wait_event(self, event):
            log.append(f"{self.name} waits for {event}")

        def synchronize(self):
            log.append(f"the host waits for {self.name}")

    present = Stream("present")
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream("side"))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: present)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(
        torch, "empty_like",
        lambda tensor, device, pin_memory=False: log.append(f"{device}, pinned {pin_memory}") or allocate(tensor),
    )  # fmt: skip
    tensors, copies = [torch.full((3,), value) for value in (1, 2)], CudaCopies(torch.device("cpu", 7))
    with copies_by(lambda device: copies):
        with ToHost(CPU) as sending:
            hosts = [sending.put(tensor) for tensor in tensors]
        sent = ["cpu, pinned True", "side waits for present", "in side", "out of side"]
        assert log == [*sent, "present waits for event of side", *sent, "the host waits for side"]
        log.clear()
        with FromHost([hosts[0], None, hosts[1]], CPU) as coming:
            brought = ["cpu:7, pinned False", "side waits for present", "in side", "out of side"]
            assert log == brought
            assert torch.equal(coming.take(), tensors[1])
            assert coming.take() is None
            assert torch.equal(coming.take(), tensors[0])
    assert log == [*brought, "present waits for event of side", *brought, "present waits for event of side"]
    _copy_stream.cache_clear()


MODELS = pytest.mark.parametrize(("name", "kind", "padding"), [
    pytest.param(name, kind, padding, marks=() if (name, kind) in QUICK else pytest.mark.slow)
    for name in (*VARIANTS, *PEFT_METHODS)
    for kind, padding in (("bert", "right"), ("bart", "left"), ("opt", "left"), ("vit", None), ("llama", "left"))
])  # fmt: skip


@PRECISIONS
@MODELS
def test_models_stay_exact(name, kind, padding, precision, monkeypatch):
    with copies_by(LateCopies):
        check_exactness(name, 6, precision, monkeypatch, kind=kind, padding=padding, offload=True)


@MODELS
def test_models_in_chunks_stay_exact(name, kind, padding):
    settings = {"kind": kind, "padding": padding, "chunks": 3, "offload": True}
    with copies_by(LateCopies):
        check_equal_to_stored(*train_once(name, "exact", 4, None, **settings), name, 4, None, **settings)


@MODELS
def test_kept_layers_above_change_nothing(name, kind, padding):
    settings = {"kind": kind, "padding": padding, "chunks": 3, "stored_layers": 2}
    with copies_by(LateCopies):
        (loss, found, _), (expected_loss, expected, _) = (
            train_once(name, "exact", 4, None, offload=offload, **settings) for offload in (True, False)
        )
    assert loss == expected_loss
    assert all(torch.equal(gradient, expected[layer]) for layer, gradient in found.items())


@pytest.mark.gpu
@pytest.mark.parametrize("tie", TIES)
def test_many_steps_on_cuda(tie):
    """Large enough for copies to be under way while the next half computes."""
    module, reference = (stack(layers=12, hidden=512, tie=TIES[tie], offload=off).cuda() for off in (True, False))
    for seed in range(20):
        hidden = hidden_states(64, 256, 512, seed=seed).cuda()
        found, expected = step(module, hidden, seed), step(reference, hidden, seed)
        assert found[0] == expected[0]
        assert all(torch.equal(*pair) for pair in zip(found[1], expected[1], strict=True))
    pages = torch.cuda.host_memory_stats()["allocated_bytes.current"]
    step(module, hidden)
    assert torch.cuda.host_memory_stats()["allocated_bytes.current"] == pages  # what was freed is used again


@pytest.mark.gpu
def test_what_a_gpu_moves_is_counted():
    hidden = hidden_states(64, 256, 512).cuda()
    meter, packed = CudaMeter(hidden.device), 64 * 256 * 512 // 2
    module, kept = stack(layers=6, hidden=512, offload=True).cuda(), {}
    for offload in (True, False, True):
        module.offload = offload
        with meter:
            before, on_host = meter.live_bytes(), meter.host_bytes()
            loss = module(hidden).sum()
            kept[offload] = meter.live_bytes() - before
            assert meter.host_bytes() - on_host == (6 * packed if offload else 0)  # a power of two
            loss.backward()
            module.zero_grad(set_to_none=True)
            del loss
    assert kept[False] - kept[True] == 6 * packed
