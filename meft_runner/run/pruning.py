"""A trial of a search stops where those before it were better at the same epoch."""

import math
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class Pruning(TrainerCallback):
    """Ends training after an epoch whose best score so far is too low; the last epoch is never the one.

    Args:
        pruned_below: the lowest score that goes on after each epoch, a fraction; None for any. Later epochs have none.

    Attributes:
        reason: why training was ended, in words; None where it was not.
    """

    def __init__(self, pruned_below: Sequence[float | None]) -> None:
        self.pruned_below = pruned_below
        self.reason: str | None = None

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Looks at an epoch, after its scores and its checkpoint."""
        key = str(args.metric_for_best_model)
        scores = [entry[key] for entry in state.log_history if key in entry]
        limit = self.pruned_below[len(scores) - 1] if 0 < len(scores) <= len(self.pruned_below) else None
        if limit is None or control.should_training_stop or state.global_step >= state.max_steps:
            return
        best = max((score for score in scores if math.isfinite(score)), default=-math.inf)
        if best < limit:
            self.reason = f"best score {best:.4f} after epoch {len(scores)}, complete trials had {limit:.4f} (median)"
            control.should_training_stop = True
