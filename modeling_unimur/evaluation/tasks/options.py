"""Options of the protocols."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TaskOptions:
    """The choices of all protocols; each reads its own.

    Args:
        split: of the set; None is the one that the papers report on.
        limit: only so many dialogues, for a quick look; figures are then not the papers'.
        seed: of the resampling.
        over_return: percent of replies without a gold image that may get one, where image retrieval rates are
            matched.
        image_threshold: score from which on an image is returned; None takes the model's own, if it has one.
        returned_images: images that a system returns in a reply.
        judge: folder or Hub id of a CLIP for MM-Relevance; None takes the compared system's own space, which is said.
        rounds: numbers of rounds that VisDial shows; 0 stands for all.
        form: how VisDial is written: `chat`, a turn a line, or `fromage`, one line of `Q: ...? A: ....`.
        with_caption: whether VisDial's caption comes first (FROMAGe leaves it out; ChatIR has it).
        normalise: of answers' likelihoods, `sum` or `mean`.
        setting, captions, deduplicate: of WebQA, as `load_webqa` takes them; None is its default.
        reranker: name or folder of a second stage for retrieval sets, as `open_reranker` takes it.
        truncate_dims: widths of truncated vectors for further rows of retrieval sets.
        least_score: grade from which on a document of a retrieval set is relevant (2 for the GIMP manual).

    Raises:
        ValueError: a value outside its range.
    """

    split: str | None = None
    limit: int | None = None
    seed: int = 0
    over_return: float = 10.0
    image_threshold: float | None = None
    returned_images: int = 1
    judge: str | None = None
    rounds: tuple[int, ...] = (1, 5, 10)
    form: str = "chat"
    with_caption: bool = False
    normalise: str = "sum"
    least_score: int = 1
    setting: str | None = None
    captions: str | None = None
    deduplicate: str | None = None
    reranker: str | None = None
    truncate_dims: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.over_return <= 100:
            raise ValueError(f"over_return is a percentage from 0 to 100, not {self.over_return}.")
        if self.returned_images < 1 or (self.limit is not None and self.limit < 1):
            raise ValueError("returned_images and limit are at least 1.")
        if self.form not in ("chat", "fromage"):
            raise ValueError(f"form is 'chat' or 'fromage', not {self.form!r}.")
        if not self.rounds or any(count < 0 for count in self.rounds):
            raise ValueError(f"rounds must be non-negative integers, got {self.rounds}.")


__all__ = ["TaskOptions"]
