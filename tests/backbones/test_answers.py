"""The loss and the scores of labelled tokens against transformers' own causal models and ordinary autograd."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, OPTForCausalLM

from meft_runner.backbones import answers
from meft_runner.backbones.answers import IGNORED, for_answers
from meft_runner.memory import TrackedMeter
from tests.helpers.models import VOCABULARY, tiny_config

BF16 = torch.bfloat16
LENGTH = 40


def llama_config(**kwargs):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, max_position_embeddings=64, **sizes, **kwargs)


CAUSAL = {
    "opt": (OPTForCausalLM, lambda: tiny_config("opt")),  # its embedding is its head too
    "llama": (LlamaForCausalLM, llama_config),
}


def pair(kind):
    """A model of transformers, and ours with its weights."""
    causal, config = CAUSAL[kind]
    torch.manual_seed(0)
    theirs = causal(config())
    ours = for_answers(causal)(config())
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def inputs(learned, rows=3):
    """Texts of which a share is learned, at the end of each row; the last row is padded on the right."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, VOCABULARY, (rows, LENGTH), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, -7:] = 0
    first = LENGTH - int(learned * LENGTH)
    labels = ids.where((mask == 1) & (torch.arange(LENGTH) >= first), IGNORED)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def step(model, batch, autocast=None, **kwargs):
    torch.manual_seed(2)
    model.zero_grad()
    with torch.autocast("cpu", dtype=autocast or BF16, enabled=autocast is not None):
        loss = model.train()(**batch, **kwargs).loss
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("autocast", [None, BF16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("few", [0, 64], ids=["chunks", "plain"])
@pytest.mark.parametrize("learned", [1.0, 0.3], ids=["all", "few"])
@pytest.mark.parametrize("kind", CAUSAL)
def test_loss_and_gradients_are_those_of_the_ordinary_model(kind, learned, few, autocast, monkeypatch):
    monkeypatch.setattr(answers, "_CHUNK", 7)  # several chunks, the last one not full
    monkeypatch.setattr(answers, "_FEW", few)
    theirs, ours = pair(kind)
    batch = inputs(learned)
    (expected, reference), (loss, gradients) = (step(model, batch, autocast) for model in (theirs, ours))
    tolerance = 1e-6 if autocast is None else 2e-3
    assert loss == pytest.approx(expected, rel=tolerance)
    assert gradients.keys() == reference.keys()
    for name, gradient in reference.items():
        if not name.endswith("k_proj.bias"):  # zero but for rounding: the softmax cancels it
            error = (gradients[name] - gradient).norm() / gradient.norm()
            assert error < 10 * tolerance, name


@pytest.mark.parametrize("learned", [1.0, 0.3], ids=["all", "few"])
@pytest.mark.parametrize("kind", CAUSAL)
def test_scores_are_those_of_the_logits(kind, learned, monkeypatch):
    monkeypatch.setattr(answers, "_CHUNK", 7)
    theirs, ours = (model.eval() for model in pair(kind))
    batch = inputs(learned)
    with torch.no_grad():
        scores, whole = ours(**batch), theirs(**batch)
    labels = batch["labels"][:, 1:]
    places = labels != IGNORED
    logits = whole.logits[:, :-1].log_softmax(-1)
    chosen = logits.gather(2, labels.where(places, 0)[..., None])[..., 0].where(places, 0.0)
    torch.testing.assert_close(scores.log_likelihoods, chosen.sum(1), rtol=1e-5, atol=1e-5)
    assert torch.equal(scores.tokens, places.sum(1))
    assert torch.equal(scores.correct, ((logits.argmax(-1) == labels) & places).sum(1))
    assert scores.loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_the_logits_of_all_positions_never_exist(training, monkeypatch):
    monkeypatch.setattr(answers, "_CHUNK", 8)
    _, ours = pair("llama")
    batch = inputs(1.0)

    class Largest(TrackedMeter):  # which looks inside torch's own chunked loss too
        size = 0

        def follow(self, tensors):
            self.size = max([self.size, *(tensor.numel() for tensor in tensors)])

    with Largest() as meter, torch.set_grad_enabled(training):
        loss = ours(**batch).loss
        if training:
            loss.backward()
    assert batch["labels"].numel() * 64 <= meter.size < batch["labels"].numel() * VOCABULARY  # an MLP's is seen


def test_no_gradient_of_a_frozen_head_is_made():
    _, ours = pair("llama")
    ours.requires_grad_(False)
    ours.model.norm.weight.requires_grad_(True)
    retained = {}
    for trained in (True, False):
        ours.lm_head.weight.requires_grad_(trained)
        with TrackedMeter() as meter:
            meter.follow(ours.parameters())
            before = meter.live_bytes()
            loss = ours(**inputs(1.0)).loss
            retained[trained] = meter.live_bytes() - before
            del loss
    assert retained[True] - retained[False] == ours.lm_head.weight.numel() * 4


@pytest.mark.parametrize("setting", [{"logits_scaling": 8.0}, {"final_logit_softcapping": 30.0}])
def test_a_model_that_changes_its_logits_is_refused(setting):
    with pytest.raises(ValueError, match=f"llama: the loss does not know {next(iter(setting))}"):
        for_answers(LlamaForCausalLM)(llama_config(**setting))
