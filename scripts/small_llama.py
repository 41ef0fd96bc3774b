"""Makes a small Llama with a tokenizer of its own and trains it from nothing, for trying the language-model tasks.

    python scripts/small_llama.py FOLDER QA_FOLDER [--steps 800] [--hidden 192] [--layers 6] [--vocabulary 2048]

QA_FOLDER holds squad/{train,validation}.jsonl and sciq/{train,validation}.jsonl. Tokenizer and weights are made from
SQuAD's paragraphs of Wikipedia, some minutes on two cores. FOLDER/questions then gets SciQ's questions with their right
answers, as files for task=instruct. A model of a few million parameters that has read a few megabytes knows little:
losses and scores compare methods of fine-tuning, they claim nothing else.
"""

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, get_cosine_schedule_with_warmup

_LENGTH, _ROWS = 128, 8  # tokens in a row, rows in a batch
_HELD_OUT = 50  # paragraphs that the model is not trained on
_SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}


def rows_of(file: Path) -> Iterator[dict[str, str]]:
    """Yields the rows of a JSON Lines file."""
    for line in file.read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def paragraphs(folder: Path) -> list[str]:
    """Returns SQuAD's paragraphs, each once, those of the development split first."""
    files = [folder / "squad" / f"{split}.jsonl" for split in ("validation", "train")]
    return list(dict.fromkeys(row["context"] for file in files for row in rows_of(file)))


def make_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Returns a byte-level BPE tokenizer of the texts, which begins each text as Llama's does."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        texts, vocab_size=vocabulary, special_tokens=list(_SPECIAL.values()), show_progress=False
    )
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, padding_side="left", **_SPECIAL)


def token_stream(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """Returns the tokens of all texts one after the other, each between <s> and </s>; (N,)."""
    return torch.tensor([token for text in texts for token in tokenizer(f"<s>{text}</s>")["input_ids"]])


def make_model(vocabulary: int, hidden: int, layers: int) -> LlamaForCausalLM:
    """Returns a Llama with random weights, two queries for one key."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary, hidden_size=hidden, intermediate_size=8 * hidden // 3 // 64 * 64,
            num_hidden_layers=layers, num_attention_heads=hidden // 32, num_key_value_heads=hidden // 64,
            max_position_embeddings=1024, tie_word_embeddings=True,
            bos_token_id=0, eos_token_id=1, pad_token_id=3,
        )
    )  # fmt: skip


def train(model: LlamaForCausalLM, tokens: Tensor, steps: int) -> None:
    """Trains on windows of the stream, drawn at random."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.1)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    for step in range(1, steps + 1):
        starts = torch.randint(len(tokens) - _LENGTH, (_ROWS,))
        batch = torch.stack([tokens[start : start + _LENGTH] for start in starts])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps:
            print(f"step {step} of {steps}: loss {loss.item():.3f}", flush=True)


@torch.no_grad()
def perplexity(model: LlamaForCausalLM, tokens: Tensor) -> float:
    """Returns the perplexity of a stream, read in rows one after the other."""
    rows = tokens[: len(tokens) // _LENGTH * _LENGTH].view(-1, _LENGTH)
    losses = [model(input_ids=part, labels=part).loss.item() for part in rows.split(1)]
    return math.exp(sum(losses) / len(losses))


def write_questions(folder: Path, source: Path) -> None:
    """Writes SciQ's questions and right answers as prompts and completions."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation"):
        rows = (
            {"prompt": f"Question: {row['question']}\nAnswer:", "completion": f" {row['correct_answer']}"}
            for row in rows_of(source / "sciq" / f"{split}.jsonl")
        )
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(text, encoding="utf-8")


def main() -> None:
    """Reads the arguments, trains and writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("qa_folder", type=Path)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=2048)
    asked = parser.parse_args()
    texts = paragraphs(asked.qa_folder)
    tokenizer = make_tokenizer(texts, asked.vocabulary)
    held_out, tokens = (token_stream(tokenizer, part) for part in (texts[:_HELD_OUT], texts[_HELD_OUT:]))
    model = make_model(len(tokenizer), asked.hidden, asked.layers)
    print(f"{model.num_parameters():,} parameters, {len(tokens):,} tokens to train on")
    train(model.train(), tokens, asked.steps)
    print(f"perplexity of held-out paragraphs: {perplexity(model.eval(), held_out):.1f} a token")
    model.save_pretrained(asked.folder)
    tokenizer.save_pretrained(asked.folder)
    write_questions(asked.folder / "questions", asked.qa_folder)


if __name__ == "__main__":
    main()
