"""Options of the protocols, with their help on the command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any


def _option(default: Any, text: str, metavar: str | None = None, **argument: Any) -> Any:
    """Makes a field with its help and further arguments of `ArgumentParser.add_argument`; `flag` is its name there."""
    return field(default=default, metadata={"help": text, **({"metavar": metavar} if metavar else {}), **argument})


def _rounds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"numbers with commas between, such as 1,5,10, not {text!r}") from error


@dataclass(frozen=True)
class TaskOptions:
    """The choices of all protocols; each reads its own. `unimur evaluate --help` says what each field means.

    Raises:
        ValueError: a value outside its range.
    """

    split: str | None = _option(None, "split of the data set (default: the one that the papers report)")
    limit: int | None = _option(
        None, "evaluate only the first N dialogues, for a quick look; these are not the papers' figures", "N", type=int
    )
    seed: int = _option(0, "random seed of intervals and of chance (default: 0)", type=int)
    over_return: float = _option(
        10.0,
        "percentage of replies without a gold image that may get one, where image retrieval rates are compared "
        "(default: 10)",
        "PERCENT",
        type=float,
    )
    judge: str | None = _option(
        None,
        "CLIP model for MM-Relevance (MMDialog uses openai/clip-vit-base-patch32; default: the system's own space)",
        "CLIP",
    )
    rounds: tuple[int, ...] = _option(
        (1, 5, 10), "numbers of VisDial rounds to show, 0 for all (default: 1,5,10)", "NUMBERS", type=_rounds
    )
    form: str = _option(
        "chat",
        "format of VisDial dialogues: one turn per line, or one line of `Q: ...? A: ....` as FROMAGe has it",
        choices=("chat", "fromage"),
    )
    with_caption: bool = _option(
        False, "put VisDial's caption first (FROMAGe leaves it out; ChatIR has it)", action="store_true"
    )
    least_score: int = _option(
        1, "minimum score of relevant documents of a retrieval set (default: 1; 2 for gimp_manual)", "GRADE", type=int
    )
    setting: str | None = _option(
        None,
        "WebQA: merge equal texts, raw captions (default); or UniVL-DR's setting: nothing merged, query captions",
        choices=("merged", "released"),
    )
    captions: str | None = _option(
        None, "captions of WebQA (default: those of the setting)", choices=("raw", "expanded", "query")
    )
    deduplicate: str | None = _option(
        None, "documents of WebQA to merge (default: as the setting)", choices=("none", "texts", "all")
    )
    reranker: str | None = _option(
        None,
        "one more row for retrieval sets, the first model rescored: folder or Hub id of a CrossEncoder or "
        "MultiVectorEncoder",
        "MODEL",
    )
    truncate_dims: tuple[int, ...] = _option(
        (),
        "one more row for retrieval sets: the first N numbers of the vectors; repeat it for several widths",
        "N",
        flag="--truncate-dim",
        type=int,
        action="append",
    )

    def __post_init__(self) -> None:
        if not 0 <= self.over_return <= 100:
            raise ValueError(f"over_return is a percentage from 0 to 100, not {self.over_return}.")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit is at least 1, not {self.limit}.")
        if self.form not in ("chat", "fromage"):
            raise ValueError(f"form is 'chat' or 'fromage', not {self.form!r}.")
        if not self.rounds or any(count < 0 for count in self.rounds):
            raise ValueError(f"rounds must be non-negative integers, got {self.rounds}.")
