"""The readout solved once more when training has ended, where a development split says that it helps."""

import copy
import logging
from collections.abc import Callable

import numpy as np
from torch.utils.data import Dataset

from ..evaluation.systems.ridge import RidgeMap
from ..modeling_unimur import UniMuRModel
from .closed_form_start import fit_readout, read_contexts, set_readout
from .collators import DualAlignmentCollator
from .sharpen_readout import sharpen_readout

logger = logging.getLogger(__name__)


def refit_readout(
    model: UniMuRModel,
    rows: Dataset,
    collator: DualAlignmentCollator,
    judge: "Callable[[], dict[str, float]]",
    seed: int,
    steps: int = 400,
) -> "dict[str, float]":
    """Keeps the best of three readouts on what [RET] and the picture map have become: the trained maps, their ridge
    solution over all contexts, and that one sharpened by the matching losses.

    One learning rate fits no dimension of a language model's hidden states, and a short run leaves the maps far from
    their best; [RET] and the picture map are what it trains well.

    Args:
        model: trained, its target maps identical.
        rows: contexts with their right vectors; they may be many more than were trained on, since each is read once.
        collator: the run's; what is read here is not kept.
        judge: recalls on the development split.
        seed: of the folds and of the batches.
        steps: of sharpening.

    Returns:
        `dict`: the mean of the recalls of each readout; the model has the best one.
    """
    trained = {name: value.clone() for name, value in model.heads.readout_maps.state_dict().items()}
    found = {"trained": _mean(judge())}
    once = copy.copy(collator)
    once.prefix_store = None
    read = read_contexts(model, rows, once, with_pictures=True)
    ridge = fit_readout(read, seed)
    maps: dict[str, RidgeMap] = {"closed_form": ridge, "sharpened": sharpen_readout(read, ridge, seed, steps)}
    for name, each in maps.items():
        set_readout(model, each)
        found[name] = _mean(judge())
    best = max(found, key=found.get)
    logger.info("Readouts, mean recall on the development split: %s; kept: %s", found, best)
    if best == "trained":
        model.heads.readout_maps.load_state_dict(trained)
    else:
        set_readout(model, maps[best])
    return found


def _mean(figures: "dict[str, float]") -> float:
    return float(np.mean(list(figures.values())))


__all__ = ["refit_readout"]
