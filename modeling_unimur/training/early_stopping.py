"""Early stopping that a kill does not disturb."""

from transformers import EarlyStoppingCallback


class EarlyStopping(EarlyStoppingCallback):
    """Stops after `early_stopping_patience` evaluations in a row without a better `metric_for_best_model`.

    The count is in the checkpoints; a run that had stopped and goes on from its last one stops at once.
    """

    def on_train_begin(self, args, state, control, **kwargs):
        """Stops where the count says so."""
        super().on_train_begin(args, state, control, **kwargs)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True


__all__ = ["EarlyStopping"]
