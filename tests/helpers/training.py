"""Trainings of tiny models, from settings to the Trainer, without a run around them."""

from meft_runner.run.arguments import training_arguments
from meft_runner.run.callbacks import LossWatch
from meft_runner.run.trainer import MeftTrainer


def make_trainer(chosen, model, data, directory, collate, callbacks=(), splits=None):
    """Returns the Trainer of a run without early stopping and gradient check."""
    return MeftTrainer(
        description={},
        splits=data.evaluation if splits is None else splits,
        loss_watch=LossWatch(chosen.training.learning_rate, chosen.training.precision.name),
        made_from={},
        model=model,
        args=training_arguments(chosen, data, directory),
        train_dataset=data.train,
        data_collator=collate,
        callbacks=list(callbacks),
    )
