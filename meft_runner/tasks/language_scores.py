"""How well a language model writes: its loss a token, perplexity, token accuracy, and exact matches of its answers."""

import math
from collections.abc import Sequence

import numpy as np
from torch import nn
from transformers import EvalPrediction, PreTrainedTokenizerBase

from meft_runner.backbones.generation import generate

METRIC = "inverse_perplexity"  # chooses the best epoch: the one with the lowest loss, as a fraction
_LARGEST = 700.0  # whose exponential is finite


def token_scores(prediction: EvalPrediction) -> dict[str, float]:
    """Scores the tokens of all rows alike, whatever batches they were in.

    Args:
        prediction: of the model's outputs, (N,) each: summed log-likelihoods of a row's learnt tokens, their number,
            and how many of them are the likeliest ones.

    Returns:
        `loss`, the mean negative log-likelihood of a token in nats; `perplexity`, its exponential;
        `inverse_perplexity`, the geometric mean of the probabilities of tokens; and `token_accuracy`, a fraction.
    """
    likelihoods, tokens, correct = (np.asarray(values, dtype=np.float64) for values in prediction.predictions)
    loss = float(-likelihoods.sum() / tokens.sum())
    perplexity = math.inf if loss > _LARGEST else math.exp(loss)
    accuracy = float(correct.sum() / tokens.sum())
    return {"loss": loss, "perplexity": perplexity, METRIC: math.exp(-loss), "token_accuracy": accuracy}


def exact_match(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[tuple[list[int], str]],
    max_new_tokens: int,
    ends: Sequence[int],
) -> dict[str, float]:
    """Lets a model answer, taking the likeliest token each time, and counts answers that are the expected ones.

    Args:
        model: in evaluation mode.
        tokenizer: turns its tokens into text.
        questions: tokens to begin with, and the answer that is expected after them.
        max_new_tokens: of an answer.
        ends: tokens that end an answer besides the model's own.

    Returns:
        `exact_match`, the share of answers that are equal to the expected ones but for blanks around them.
    """
    answers = generate(model, tokenizer, [prompt for prompt, _ in questions], max_new_tokens, ends=ends)
    return matches(answers, [expected for _, expected in questions])


def matches(answers: Sequence[str], expected: Sequence[str]) -> dict[str, float]:
    """Returns `exact_match`, the share of answers that are equal to the expected ones but for blanks around them."""
    hits = [answer.strip() == wanted.strip() for answer, wanted in zip(answers, expected, strict=True)]
    return {"exact_match": sum(hits) / len(hits)}
