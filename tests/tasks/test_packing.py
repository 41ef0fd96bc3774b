from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from meft_runner.tasks.packing import collate_packed, pack
from tests.helpers.models import meft_settings, move_away, peft_settings, prepared, tiny_model

LENGTHS = (9, 3, 7, 5, 2, 11)


def rows_of(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        ids = torch.randint(5, 100, (length,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100, *ids[1:]], "length": length})
    return rows


def parts_of(row):
    """The rows in a packed one: they begin where positions do."""
    starts = [place for place, position in enumerate(row["position_ids"]) if position == 0]
    return [row["input_ids"][a:b] for a, b in zip(starts, [*starts[1:], len(row["input_ids"])], strict=True)]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=30))
def test_packed_rows_hold_every_row_once_and_whole(lengths):
    rows = rows_of(lengths)
    packed = pack(rows, 20)
    found = [part for row in packed for part in parts_of(row)]
    assert sorted(found) == sorted(row["input_ids"] for row in rows)
    assert all(len(row["input_ids"]) == row["length"] <= 20 for row in packed)
    assert all(len(row["labels"]) == len(row["position_ids"]) == row["length"] for row in packed)
    assert all(
        label == -100 for row in packed for label, at in zip(row["labels"], row["position_ids"], strict=True) if at == 0
    )
    assert len(packed) <= 1 + 2 * sum(lengths) // 20  # any two of them together are longer than one may be


def test_padding_is_a_row_of_its_own_without_labels():
    batch = collate_packed(pack(rows_of([4, 3, 5]), 7), padding=1, length=9)
    assert set(batch) == {"input_ids", "labels", "position_ids"}
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3], [0, 1, 2, 3, 0, 1, 2, 0, 1]]
    assert batch["input_ids"][0, 5:].tolist() == [1] * 4
    assert batch["labels"][0, 5:].tolist() == [-100] * 4


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("of", "causal"),
    [
        (LlamaConfig, LlamaForCausalLM),
        (partial(MistralConfig, sliding_window=4), MistralForCausalLM),
        (Qwen2Config, Qwen2ForCausalLM),
        (Qwen3Config, Qwen3ForCausalLM),
    ],
    ids=["llama", "mistral", "qwen2", "qwen3"],
)
def test_transformers_own_model_loses_the_same_on_every_token(of, causal, attention):
    """The reference: each row by itself, without padding, in the model of transformers."""
    torch.manual_seed(0)
    model = causal(
        of(
            vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, attn_implementation=attention,
        )
    ).eval()  # fmt: skip
    rows = rows_of(LENGTHS)
    batch = collate_packed(pack(rows, 14), padding=1)
    assert len(batch["input_ids"]) < len(rows)
    with torch.no_grad():
        logits = model(batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), reduction="none")
        alone = [
            F.cross_entropy(model(torch.tensor([row["input_ids"]])).logits[0, :-1], torch.tensor(row["labels"][1:]),
                            reduction="none")
            for row in rows
        ]  # fmt: skip
    labelled = batch["labels"][:, 1:].flatten() != -100
    torch.testing.assert_close(losses[labelled].sort().values, torch.cat(alone).sort().values, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("method", [meft_settings("meft1"), meft_settings("meft3"), peft_settings("lora")])
def test_reversible_layers_keep_packed_rows_apart(method):
    """Losses and gradients of packed rows are those of the same rows in a padded batch."""
    rows = rows_of(LENGTHS)
    packed = collate_packed(pack(rows, 14), padding=1)
    padded = [row["input_ids"] + [1] * (max(LENGTHS) - row["length"]) for row in rows]
    labels = [row["labels"] + [-100] * (max(LENGTHS) - row["length"]) for row in rows]
    mask = [[int(place < row["length"]) for place in range(max(LENGTHS))] for row in rows]
    unpacked = {"input_ids": padded, "labels": labels, "attention_mask": mask}
    found = []
    for batch in (packed, {name: torch.tensor(values) for name, values in unpacked.items()}):
        model = move_away(prepared(method, "llama-answers", dropout=0.0))
        loss = model(**batch).loss
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.requires_grad)])
    for one, other in zip(*found, strict=True):
        # streams are on a grid of 2**-16, so sums in another order end on another point of it now and then
        torch.testing.assert_close(one, other, atol=3e-4, rtol=1e-2)


def test_rows_that_saw_each_other_would_be_noticed():
    """The test above can fail: as one text, the packed rows have other losses."""
    model = tiny_model("llama-answers", dropout=0.0).eval()
    batch = collate_packed(pack(rows_of(LENGTHS), 14), padding=1)
    joined = {name: tensor for name, tensor in batch.items() if name != "position_ids"}
    with torch.no_grad():
        assert abs(model(**batch).loss - model(**joined).loss) > 1e-3
