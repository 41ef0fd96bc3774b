"""Fine-tunes a language model on prompts and answers with TRL's SFTTrainer and LoRA, reversed.

pip install "meft-runner[trl]"
python examples/trl_sft.py                                    # a small random Llama, half a minute on a CPU
python examples/trl_sft.py --model HuggingFaceTB/SmolLM2-360M
"""

import argparse
import random
import tempfile
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    set_seed,
)
from trl import SFTConfig, SFTTrainer

from meft_runner import make_reversible, reversal_report

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def make_rows(count: int) -> Dataset:
    """Returns questions about the days of the week, with their answers."""
    places = [random.randrange(7) for _ in range(count)]
    prompts = [f"The day after {DAYS[place]} is" for place in places]
    return Dataset.from_dict({"prompt": prompts, "completion": [f" {DAYS[(place + 1) % 7]}" for place in places]})


def small_model() -> tuple[Any, Any]:
    """Returns a random Llama whose tokens are words."""
    words = ["<pad>", "<s>", "</s>", "<unk>", "The", "day", "after", "is", *DAYS]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return LlamaForCausalLM(config), PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def main() -> None:
    """Trains, and says what the reversal found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", help="a folder, or a name on the hub")
    parser.add_argument("--steps", type=int, default=60)
    asked = parser.parse_args()
    set_seed(1)

    if asked.model:
        model, tokenizer = AutoModelForCausalLM.from_pretrained(asked.model), AutoTokenizer.from_pretrained(asked.model)
    else:
        model, tokenizer = small_model()
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=16, lora_alpha=32, target_modules="all-linear"))
    model = make_reversible(model)  # in place of gradient checkpointing, which SFTConfig turns on by itself

    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=folder, max_steps=asked.steps, per_device_train_batch_size=16, learning_rate=5e-3,
                gradient_checkpointing=False, bf16=torch.cuda.is_available(), logging_steps=20, save_strategy="no",
                report_to="none",
            ),
            train_dataset=make_rows(500),
            processing_class=tokenizer,
        )  # fmt: skip
        trainer.train()
    print(reversal_report(model))


if __name__ == "__main__":
    main()
