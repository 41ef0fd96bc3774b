"""Folders as users have them: small models with random weights and tokenizers of their own, and rows of a task."""

import json
import runpy
import sys
from pathlib import Path

import torch
from PIL import Image
from tokenizers import ByteLevelBPETokenizer
from tokenizers.processors import RobertaProcessing, TemplateProcessing
from transformers import AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.helpers.models import MODELS, tiny_config

OPT_SCRIPT = Path(__file__).parents[2] / "scripts" / "random_opt.py"


def write_lines(file, rows):
    """Writes rows as JSON Lines."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make_opt_folder(folder, lines, positions=512):
    """Runs the project's own script on a file of these lines and returns the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    arguments = [str(folder), str(folder / "lines.txt"), "--layers", "2", "--hidden", "64", "--vocabulary", "400"]
    saved, sys.argv = sys.argv, [str(OPT_SCRIPT), *arguments, "--positions", str(positions)]
    try:
        runpy.run_path(str(OPT_SCRIPT), run_name="__main__")
    finally:
        sys.argv = saved
    return str(folder)


def make_llama_folder(folder, lines, positions=512):
    """A Llama with a tokenizer of such lines, which begins each text with <s> and has no token for padding."""
    trained = AutoTokenizer.from_pretrained(make_opt_folder(folder, lines, positions)).backend_tokenizer
    trained.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", trained.token_to_id("<s>"))]
    )
    for file in folder.iterdir():
        file.unlink()
    PreTrainedTokenizerFast(tokenizer_object=trained, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    config = tiny_config("llama")
    config.vocab_size, config.max_position_embeddings, config.pad_token_id = 400, positions, None
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def byte_tokenizer():
    """A tokenizer that reads texts by bytes, with BART's <s> and </s>."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([], vocab_size=300, special_tokens=["<s>", "<pad>", "</s>", "<unk>"])
    bpe.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, **names)


def plain_tokenizer(**names):
    """A tokenizer that reads texts by bytes and marks nothing."""
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator([], vocab_size=300, special_tokens=["<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, **names)


def save_byte_tokenizer(folder):
    """Saves the tokenizer that reads texts by bytes."""
    byte_tokenizer().save_pretrained(folder)


def make_model_folder(folder, kind):
    """Saves a tiny model of any kind; texts are read by bytes, with BART's <s> and </s>."""
    config = tiny_config(kind)
    if hasattr(config, "vocab_size"):
        config.vocab_size, config.max_position_embeddings, config.pad_token_id = 300, 130, 1
        save_byte_tokenizer(folder)
    MODELS[kind][1](config).save_pretrained(folder)
    return str(folder)


def make_squad_rows(folder):
    """Writes a dozen questions about short texts and returns the folder."""
    folder.mkdir()
    rows = []
    for number in range(12):
        context = f"The {number}th house in the long street has {number + 3} windows, and it is painted green."
        answer = f"{number + 3} windows"
        answers = {"text": [answer], "answer_start": [context.index(answer)]}
        rows.append({"id": str(number), "context": context, "question": "How many?", "answers": answers})
    write_lines(folder / "train.jsonl", rows)
    write_lines(folder / "validation.jsonl", rows[:5])
    return folder


def make_image_rows(folder):
    """Writes images of one colour in the folders of their classes and returns the folder."""
    for split, count in (("train", 6), ("test", 3)):
        for name, colour in (("dark", 30), ("light", 220)):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (20, 20), (colour, colour, number)).save(folder / split / name / f"{number}.png")
    return folder
