"""The sections `model` and `data` of a recipe of task `univl_dr`."""

from dataclasses import dataclass, field

import torch

from .frozen_features import FeatureOptions
from .mining import MiningOptions
from .negatives import Sampler

TOWERS = ("trained", "frozen", "unused")


@dataclass
class UniVLDRModelArguments:
    """The dual encoder and which of its parts train."""

    clip: str = field(
        metadata={
            "help": "Hub id or folder of a dual encoder, or of a UniVL-DR to go on from. $UNIMUR_CACHE is filled in."
        }
    )
    clip_revision: str | None = field(default=None, metadata={"help": "Commit, tag or branch on the Hub."})
    config: dict = field(default_factory=dict, metadata={"help": "Arguments of UniVLDRConfig, such as fusion."})
    processor: dict = field(default_factory=dict, metadata={"help": "Arguments of UniVLDRProcessor."})
    image_tower: str = field(
        default="trained",
        metadata={
            "help": "trained; frozen: its outputs are computed once and kept, its projection still trains; or unused: "
            "captions alone stand for images in training, and the image side stays as it is."
        },
    )
    text_layers: int | None = field(
        default=None,
        metadata={"help": "Top layers of the text tower that train; all, and its embeddings, by default."},
    )

    trained_share: float = field(
        default=1.0,
        metadata={
            "help": "Share of the trained weights in those that are saved, the rest being the start's (WiSE-FT); the "
            "stages' folders keep the trained ones."
        },
    )

    def __post_init__(self):
        if not 0 <= self.trained_share <= 1:
            raise ValueError(f"trained_share must be between 0 and 1, got {self.trained_share}.")
        if self.image_tower not in TOWERS:
            raise ValueError(f"image_tower must be one of {TOWERS}, got {self.image_tower!r}.")
        if self.text_layers is not None and self.text_layers < 0:
            raise ValueError(f"text_layers must be a non-negative integer, or null for all, got {self.text_layers}.")


@dataclass
class UniVLDRDataArguments:
    """What is trained on, and how candidates are chosen."""

    retrieval: "str | list[str]" = field(
        default="gimp_manual",
        metadata={
            "help": "gimp_manual, gnucash_manual, debian_handbook; webqa=PATH, in any layout; folder=PATH of a saved "
            "RetrievalSet; or a list of these, whose documents lie in one index."
        },
    )
    train_splits: list[str] = field(
        default_factory=lambda: ["train"],
        metadata={"help": "Splits whose queries train; those that the set lacks are left out."},
    )
    captions: str = field(
        default="raw", metadata={"help": "Of UniVL-DR's data.zip: raw, expanded or query (verbalized images)."}
    )
    stage2_captions: str | None = field(
        default=None, metadata={"help": "Those that stage 2 trains on and is judged by, where they are others."}
    )
    deduplicate: str | None = field(
        default=None,
        metadata={"help": "Of WebQA: none (as released), texts (equal texts are one document) or all; texts if null."},
    )
    verbalizations: str | None = field(
        default=None,
        metadata={"help": "A file of `unimur verbalize`, whose words stage 2 reads behind the captions."},
    )
    train_tokens: int | None = field(
        default=None,
        metadata={"help": "Longest query, text and caption in training; the processor's max_target_tokens if null."},
    )
    stages: list[int] = field(
        default_factory=lambda: [1, 2],
        metadata={"help": "1: in-batch training; 2: mining, and training against hard negatives."},
    )
    sampler: str = field(
        default="balanced",
        metadata={"help": "Of stage 2: balanced, unbalanced, image_only, text_only, hard_in_batch; or in_batch."},
    )
    image_negatives: int = field(default=1, metadata={"help": "Image negatives a query (k1)."})
    text_negatives: int = field(default=1, metadata={"help": "Text negatives a query (k2)."})
    least_score: int = field(
        default=1, metadata={"help": "Of a positive; relevant documents of a lower score are not negatives either."}
    )
    pairs: bool = field(default=False, metadata={"help": "Train on the set's pairs too, where it has some."})
    mask_known: bool = field(
        default=True,
        metadata={"help": "Whether further right documents of a query are no in-batch negatives; false as released."},
    )
    false_negative_threshold: float | None = field(
        default=None, metadata={"help": "Cosine with the positive from which on a document of the batch is left out."}
    )
    mining_depth: int = field(default=100, metadata={"help": "Ranks that hard negatives are taken from."})
    mining_joint: bool = field(default=True, metadata={"help": "One ranking of both kinds; or one of each."})
    mining_keep: int | None = field(default=None, metadata={"help": "Most hard negatives of each kind a query."})
    mining_drop_same_text: bool = field(default=True, metadata={"help": "Drop copies of a right document's words."})
    mining_drop_same_group: bool = field(
        default=True, metadata={"help": "Drop documents of a right document's section or figure."}
    )
    mining_max_similarity: float | None = field(
        default=None, metadata={"help": "Cosine with a right document from which on one is dropped."}
    )
    mining_reranker: str | None = field(
        default=None,
        metadata={
            "help": "CrossEncoder or MultiVectorEncoder that drops what it scores above the best right document."
        },
    )
    mining_max_score: float | None = field(default=None, metadata={"help": "Score above which it drops a document."})
    mining_absolute_margin: float | None = field(
        default=None, metadata={"help": "Distance below the best right document from which on it drops one."}
    )
    mining_relative_margin: float | None = field(
        default=None, metadata={"help": "The same as a share of the best right document's score."}
    )
    mine_every: int | None = field(default=None, metadata={"help": "Steps of stage 2 between minings; once if null."})
    hard_negatives: str | None = field(
        default=None,
        metadata={"help": "In place of mining before stage 2: a file of `unimur mine`, or own, those of the set."},
    )
    stage2_training: dict = field(
        default_factory=dict, metadata={"help": "Fields of `training` that stage 2 has otherwise."}
    )
    dev_split: str = field(default="validation", metadata={"help": "Split that evaluations and early stopping use."})
    test_split: str | None = field(
        default="test", metadata={"help": "Split of the figures at the end; null for none."}
    )
    final_figures: bool = field(
        default=True, metadata={"help": "Whether both splits are measured before training and after each stage."}
    )
    dev_documents: int | None = field(
        default=None, metadata={"help": "Documents that evaluations during training search; all by default."}
    )
    feature_dtype: str = field(default="float32", metadata={"help": "Of a frozen image tower's outputs on disk."})
    feature_batch_size: int = field(default=32, metadata={"help": "Images that pass a frozen tower together."})
    feature_workers: int | None = field(default=None, metadata={"help": "Processes that decode images for it."})

    def __post_init__(self):
        if not self.stages or list(self.stages) != sorted(set(self.stages) & {1, 2}):
            raise ValueError(f"stages is [1], [2] or [1, 2], not {self.stages}.")
        if self.feature_dtype not in ("float32", "bfloat16"):
            raise ValueError(f"feature_dtype is float32 or bfloat16, not {self.feature_dtype!r}.")
        if self.mine_every is not None and self.mine_every < 1:
            raise ValueError(f"mine_every must be a positive number of steps, got {self.mine_every}.")
        self.stage_sampler(2)
        self.mining_options()

    def stage_sampler(self, stage: int) -> Sampler:
        """How a stage chooses candidates."""
        return Sampler("in_batch" if stage == 1 else self.sampler, self.image_negatives, self.text_negatives)

    def mining_options(self) -> MiningOptions:
        """What mining drops."""
        return MiningOptions(
            depth=self.mining_depth,
            joint=self.mining_joint,
            keep=self.mining_keep,
            drop_same_text=self.mining_drop_same_text,
            drop_same_group=self.mining_drop_same_group,
            max_similarity=self.mining_max_similarity,
            reranker=self.mining_reranker,
            max_score=self.mining_max_score,
            absolute_margin=self.mining_absolute_margin,
            relative_margin=self.mining_relative_margin,
        )

    def feature_options(self) -> FeatureOptions:
        """How a frozen image tower runs."""
        return FeatureOptions(
            stored=getattr(torch, self.feature_dtype),
            image_batch=self.feature_batch_size,
            workers=self.feature_workers,
        )


__all__ = ["UniVLDRDataArguments", "UniVLDRModelArguments"]
