"""Makes a small OPT with random weights and a tokenizer of its own, for trying the language-model tasks.

    python scripts/random_opt.py FOLDER TEXT_FILE... [--layers 4] [--hidden 256] [--vocabulary 4000]
        [--positions 512]

The tokenizer, byte-level BPE as OPT's, is trained on the given files. Nothing is pre-trained: scores of this
model mean nothing, losses and gradients do.
"""

import argparse

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2TokenizerFast, OPTConfig, OPTForCausalLM

_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]  # in OPT's order
_SPECIAL_NAMES = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}


def main() -> None:
    """Reads the arguments and writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("text", nargs="+")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--vocabulary", type=int, default=4000)
    parser.add_argument("--positions", type=int, default=512)
    asked = parser.parse_args()
    trained = ByteLevelBPETokenizer()
    trained.train(asked.text, vocab_size=asked.vocabulary, special_tokens=_SPECIAL)
    tokenizer = GPT2TokenizerFast(tokenizer_object=trained._tokenizer, **_SPECIAL_NAMES)
    tokenizer.save_pretrained(asked.folder)
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=asked.hidden,
        word_embed_proj_dim=asked.hidden,
        ffn_dim=4 * asked.hidden,
        num_hidden_layers=asked.layers,
        num_attention_heads=asked.hidden // 64,
        max_position_embeddings=asked.positions,
    )
    OPTForCausalLM(config).save_pretrained(asked.folder)


if __name__ == "__main__":
    main()
