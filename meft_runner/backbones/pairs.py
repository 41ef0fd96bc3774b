"""What stands between the two texts of a pair, for models whose tokenizer puts nothing there."""

from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

_FIRST, _SECOND = "a", "b"


def separate_pairs(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    """Puts the end of a text between two texts that would be run together; single texts stay as they are.

    Tokenizers of Llama begin each of them with a token of its own. Those of Qwen and SmolLM2 mark nothing, so that the
    last word of the first text would be part of the second one.

    Args:
        tokenizer: the model's; it is changed.
        config: the model's configuration, as a family's `finish_tokenizer` gets it.
    """
    plain = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (_FIRST, _SECOND)]
    if tokenizer.eos_token is None or not _contains(tokenizer(_FIRST, _SECOND)["input_ids"], plain[0] + plain[1]):
        return
    single = tokenizer(_FIRST)["input_ids"]
    begin = next(place for place in range(len(single)) if single[place : place + len(plain[0])] == plain[0])
    before, after = single[:begin], single[begin + len(plain[0]) :]
    before, after = ([str(tokenizer.convert_ids_to_tokens(token)) for token in part] for part in (before, after))
    end = str(tokenizer.eos_token)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", end, "$B", *after],
        special_tokens=[(token, tokenizer.convert_tokens_to_ids(token)) for token in {*before, *after, end}],
    )


def _contains(tokens: list[int], part: list[int]) -> bool:
    return any(tokens[place : place + len(part)] == part for place in range(len(tokens)))
