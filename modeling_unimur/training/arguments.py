"""Arguments of training runs: those of each task, and what a run has beyond `transformers.TrainingArguments`."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from transformers import TrainingArguments

from .distillation import Distillation
from .frozen_features import FeatureOptions
from .mining import MiningOptions
from .query_rows import Sampler

logger = logging.getLogger(__name__)

# `accelerate launch --use_fsdp` says so by the environment alone.
_LAUNCHER_SHARDS = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
_SHARDING = {"reshard_after_forward": True, "cpu_offload": False}


def _is_true(value) -> bool:
    # Also FSDP1's names of strategies, which accelerate still writes.
    return str(value).lower() in ("true", "1", "full_shard", "hybrid_shard")


@dataclass
class RetrievalTrainingArguments(TrainingArguments):
    """`TrainingArguments` and what contrastive training adds.

    `fsdp` and `fsdp_config` (or `accelerate launch --use_fsdp`) shard the frozen language model over the ranks. What
    trains is a few MB, and is replicated and reduced as without sharding, so a checkpoint is the same file either way
    and a run may go on under another launcher. Of `fsdp_config`, `reshard_after_forward` and `cpu_offload` are used.

    With `gradient_accumulation_steps` the loss is the mean over the micro-batches, each with its own negatives and its
    own mean over label tokens. `gradient_cache_chunk` is what makes the batch itself bigger.

    Args:
        gradient_cache_chunk: rows of a batch that run at one time; the loss still sees the whole batch
            (GradCache).
        max_logit_scale: largest factor on the cosines (CLIP: 100, against unstable training); null for no
            limit.
        rescale_ret: bring the [RET] vectors to the mean norm of the vocabulary after each step (FROMAGe).
        early_stopping_patience: evaluations in a row without a better metric_for_best_model after which
            training stops.
    """

    gradient_cache_chunk: int | None = None
    max_logit_scale: float | None = 100.0
    rescale_ret: bool = False
    early_stopping_patience: int | None = None

    def __post_init__(self):
        self.sharding = self._take_sharding()
        if self.gradient_cache_chunk is not None and self.gradient_cache_chunk < 1:
            raise ValueError(f"gradient_cache_chunk is at least 1, not {self.gradient_cache_chunk}.")
        if self.max_logit_scale is not None and self.max_logit_scale <= 1:
            raise ValueError(f"max_logit_scale is a factor above 1, or null, not {self.max_logit_scale}.")
        super().__post_init__()
        if self.early_stopping_patience is not None and (
            self.eval_strategy == "no" or not self.load_best_model_at_end or self.early_stopping_patience < 1
        ):
            raise ValueError(
                "early_stopping_patience counts evaluations (1 or more) without a better metric_for_best_model: set "
                "eval_strategy and load_best_model_at_end too."
            )
        if self.early_stopping_patience is not None:
            self.restore_callback_states_from_checkpoint = True  # its count is one of them

    def _take_sharding(self) -> dict | None:
        """What shards the frozen part; Trainer's own sharding, which takes trained scalars too, stays off."""
        asked = [word for word in str(self.fsdp or "").lower().split() if word not in ("false", "none")]
        if not asked and not _LAUNCHER_SHARDS:
            return None
        given = self.fsdp_config or {}
        if isinstance(given, (str, os.PathLike)):
            given = json.loads(Path(given).read_text(encoding="utf-8"))
        if _LAUNCHER_SHARDS:
            names = {"reshard_after_forward": "FSDP_RESHARD_AFTER_FORWARD", "cpu_offload": "FSDP_OFFLOAD_PARAMS"}
            given = {**{key: os.environ[name] for key, name in names.items() if name in os.environ}, **given}
            os.environ["ACCELERATE_USE_FSDP"] = "false"
        given = {key.removeprefix("fsdp_"): value for key, value in given.items()}
        unused = sorted(set(given) - set(_SHARDING))
        if unused:
            logger.warning("Of fsdp_config only %s are used; not %s.", ", ".join(_SHARDING), ", ".join(unused))
        if "offload" in asked:
            given["cpu_offload"] = True
        if "shard_grad_op" in asked:
            given["reshard_after_forward"] = False
        self.fsdp = self.fsdp_config = None
        return {key: _is_true(given.get(key, default)) for key, default in _SHARDING.items()}


@dataclass
class ClipModelArguments:
    """The dual encoder that task clip trains.

    Args:
        clip: Hub id or folder of the dual encoder. $UNIMUR_CACHE is filled in.
        clip_revision: commit, tag or branch on the Hub.
        image_head: with data.images: arguments of a new ImageHead of an open_clip model, which then trains.
    """

    clip: str
    clip_revision: str | None = None
    image_head: dict | None = None


@dataclass
class UniMuRModelArguments:
    """The backbones and the heads on them.

    Args:
        clip: Hub id or folder of the dual encoder. $UNIMUR_CACHE is filled in.
        language_model: Hub id or folder.
        language_model_dtype: of the frozen language model; bfloat16 is 2.6 times faster with AMX.
        language_model_quantization: of the frozen language model: int8, int4 (torchao) or nf4 (bitsandbytes).
        clip_revision: commit, tag or branch on the Hub.
        language_model_revision: commit, tag or branch on the Hub.
        config: arguments of UniMuRConfig.
        heads: file of trained heads to begin with; with training.max_steps: 0 only the anchored query is
            fitted.
        processor: arguments of UniMuRProcessor.
    """

    clip: str
    language_model: str | None = None
    language_model_dtype: str = "float32"
    language_model_quantization: str | None = None
    clip_revision: str | None = None
    language_model_revision: str | None = None
    config: dict = field(default_factory=dict)
    heads: str | None = None
    processor: dict = field(default_factory=dict)


@dataclass
class _FeatureArguments:
    """The frozen towers' features.

    Args:
        feature_dtype: of the frozen towers' outputs on disk; bfloat16 halves them, each value within 2^-8.
        feature_batch_size: images that pass the frozen tower together.
        feature_workers: processes that decode images; by the CPUs and the number of images.
        feature_shard_rows: rows a file; a killed run computes at most as many again.
    """

    feature_dtype: str = "float32"
    feature_batch_size: int = 32
    feature_workers: int | None = None
    feature_shard_rows: int = 4096

    def __post_init__(self):
        _require_one_of(self, "feature_dtype", ("float32", "bfloat16"))
        for name in ("feature_batch_size", "feature_shard_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")

    def feature_options(self) -> FeatureOptions:
        """How the frozen towers run, and how their features are stored."""
        return FeatureOptions(
            stored=getattr(torch, self.feature_dtype),
            workers=self.feature_workers,
            image_batch=self.feature_batch_size,
            text_batch=4 * self.feature_batch_size,
            shard_rows=self.feature_shard_rows,
        )


@dataclass
class _ImageArguments(_FeatureArguments):
    """Captioned images, and the frozen towers' features of them.

    Args:
        sources: captioned images: openclipart, openmoji, stamps, folder=PATH; or cc3m=PATH alone, with
            cc3m_validation=PATH and cc3m_test=PATH.
        held_out_fraction: share of cc3m=PATH kept for validation, and for test, where they have no path; of
            `images` for validation.
    """

    sources: list[str] = field(default_factory=lambda: ["openclipart", "openmoji", "stamps"])
    held_out_fraction: float = 0.005


def _require_one_of(arguments: object, name: str, allowed: tuple) -> None:
    if getattr(arguments, name) not in allowed:
        raise ValueError(f"{name} must be one of {allowed}, got {getattr(arguments, name)!r}.")


@dataclass
class ClipDataArguments(_ImageArguments):
    """What task clip trains on.

    Args:
        images: captioned images in place of `sources`; a folder with captions.tsv (file, tab, caption), the
            JSON file of Karpathy's splits, or a `datasets` id.
        title_share: share of rows with the title of their image, not any text of it.
    """

    images: str | None = None
    title_share: float = 0.4


@dataclass
class UniMuRDataArguments(_ImageArguments):
    """What task unimur trains on.

    Args:
        max_caption_tokens: longest caption (FROMAGe: 24).
        image_context_fraction: share of contexts that hold an image and words, not words alone.
        two_pairs_fraction: share of contexts with another pair's caption before them, as in a dialogue.
        max_context_tokens: longest context; as a caption by default.
        keep_context: which tokens of a longer context are kept: latest, or first (FROMAGe).
        equal_captions_match: whether training pairs with equal captions are right for each other (FROMAGe:
            false).
        concatenate_captions: probability of two images with their captions in one row (FROMAGe: 0.5).
        anchor_texts: kinds of dialogue that the anchored query is fitted on (query_anchor), named as `texts`,
            and how many of each.
        max_anchor_tokens: longest of these dialogues; the latest tokens are kept.
        texts: unpaired texts for textual matching: glosses, dialogues, questions, chats, long_dialogues,
            long_chats; chats=PATH, your own, JSON lines of chat messages; or package.module:function.
        text_fraction: share of rows that come from `texts`, if there are.
        texts_per_source: contexts taken of each source of texts, evenly spaced; all by default.
        own_words_share: share of its own words, read by the frozen text tower, in the target of an unpaired
            context; the rest is the right text's. So the readout learns both what is said and what is meant.
        keep_prefixes_gb: memory for what the frozen language model made of contexts; 0 keeps nothing.
        keep_prefixes_on_disk: whether those lie in the cache folder for the next run too.
        closed_form_start: start the image map and the readout from ridge regressions over all rows.
        train_readout: whether gradients train the readout too. Dimensions of a language model's hidden states differ
            hundredfold, and the first steps undo a closed-form start at any learning rate; a short run does better
            with `false` and a refit.
        refit_readout: solve the readout once more at the end, where the dev split gains by it.
        refit_texts_per_source: as texts_per_source, of what the refit reads, once each; all by default.
        refit_texts: further texts that the refit alone reads: as in `texts`, or words (of the glosses) and
            turns (of the dialogues), which are their own right answers.
        hard_negatives: hard negatives of each modality a context, mined by the model as it stands before the
            first step (UniVL-DR's balanced sampler, 1); 0 for none, as in UniMuR.
        captions_per_batch: rows of the caption loss in a batch; all by default.
    """

    max_caption_tokens: int = 24
    image_context_fraction: float = 0.25
    two_pairs_fraction: float = 0.0
    max_context_tokens: int | None = None
    keep_context: str = "latest"
    equal_captions_match: bool = True
    concatenate_captions: float = 0.0
    anchor_texts: dict[str, int] = field(default_factory=dict)
    max_anchor_tokens: int = 400
    texts: list[str] = field(default_factory=list)
    text_fraction: float = 0.5
    texts_per_source: int | None = None
    own_words_share: float = 0.0
    keep_prefixes_gb: float = 0.0
    keep_prefixes_on_disk: bool = False
    closed_form_start: bool = False
    train_readout: bool = True
    refit_readout: bool = False
    refit_texts_per_source: int | None = None
    refit_texts: list[str] = field(default_factory=list)
    hard_negatives: int = 0
    captions_per_batch: int | None = None

    def __post_init__(self):
        super().__post_init__()
        _require_one_of(self, "keep_context", ("latest", "first"))
        if self.refit_texts and not (self.refit_readout and self.texts):
            raise ValueError(
                "refit_texts are read beside `texts`, by refit_readout: true; give both, or leave it out."
            )
        if not (self.train_readout or self.closed_form_start):
            raise ValueError("train_readout: false leaves the readout at random: set closed_form_start: true too.")
        if self.hard_negatives < 0:
            raise ValueError(f"hard_negatives must be a non-negative integer, got {self.hard_negatives}.")


@dataclass
class UniVLDRModelArguments:
    """The dual encoder and which of its parts train.

    Args:
        clip: Hub id or folder of a dual encoder, or of a UniVL-DR to go on from. $UNIMUR_CACHE is filled in.
        clip_revision: commit, tag or branch on the Hub.
        config: arguments of UniVLDRConfig, such as fusion.
        processor: arguments of UniVLDRProcessor.
        image_tower: trained; frozen: its outputs are computed once and kept, its projection still trains; or
            unused: captions alone stand for images in training, and the image side stays as it is.
        text_layers: top layers of the text tower that train; all, and its embeddings, by default.
        trained_share: share of the trained weights in those that are saved, the rest being the start's
            (WiSE-FT); the stages' folders keep the trained ones.
    """

    clip: str
    clip_revision: str | None = None
    config: dict = field(default_factory=dict)
    processor: dict = field(default_factory=dict)
    image_tower: str = "trained"
    text_layers: int | None = None
    trained_share: float = 1.0

    def __post_init__(self):
        if not 0 <= self.trained_share <= 1:
            raise ValueError(f"trained_share must be between 0 and 1, got {self.trained_share}.")
        _require_one_of(self, "image_tower", ("trained", "frozen", "unused"))
        if self.text_layers is not None and self.text_layers < 0:
            raise ValueError(f"text_layers must be a non-negative integer, or null for all, got {self.text_layers}.")


@dataclass
class UniVLDRDataArguments(_FeatureArguments):
    """What is trained on, and how candidates are chosen.

    Args:
        retrieval: gimp_manual, gnucash_manual, debian_handbook; webqa=PATH, in any layout; folder=PATH of a
            saved RetrievalSet; or a list of these, whose documents lie in one index.
        train_splits: splits whose queries train; those that the set lacks are left out.
        generated_splits: splits of generated queries that train too, without those that fail the round trip; those
            that the set lacks are left out.
        round_trip: a generated query trains if the model, before training, finds a positive of it among so many
            documents.
        round_trip_bm25: weight of BM25 in that search from 0, the model alone, to 1 (`index.hybrid.fuse`).
        distillation: arguments of training.distillation.Distillation, such as teacher; none if empty.
        captions: of UniVL-DR's data.zip: raw, expanded or query (verbalized images).
        stage2_captions: those that stage 2 trains on and is judged by, where they are others.
        deduplicate: of WebQA: none (as released), texts (equal texts are one document) or all; texts if null.
        verbalizations: a file of `unimur verbalize`, whose words stage 2 reads behind the captions.
        train_tokens: longest query, text and caption in training; the processor's max_target_tokens if null.
        stages: 1: in-batch training; 2: mining, and training against hard negatives.
        sampler: of stage 2: balanced, unbalanced, image_only, text_only, hard_in_batch; or in_batch.
        image_negatives: image negatives a query (k1).
        text_negatives: text negatives a query (k2).
        least_score: of a positive; relevant documents of a lower score are not negatives either.
        mask_known: whether further right documents of a query are no in-batch negatives; false as released.
        false_negative_threshold: cosine with the positive from which on a document of the batch is left out.
        mining_depth: ranks that hard negatives are taken from.
        mining_joint: one ranking of both kinds; or one of each.
        mining_keep: most hard negatives of each kind a query.
        mining_drop_same_text: drop copies of a right document's words.
        mining_drop_same_group: drop documents of a right document's section or figure.
        mining_max_similarity: cosine with a right document from which on one is dropped.
        mining_reranker: CrossEncoder or MultiVectorEncoder that drops what it scores above the best right
            document.
        mining_max_score: score above which it drops a document.
        mining_absolute_margin: distance below the best right document from which on it drops one.
        mining_relative_margin: the same as a share of the best right document's score.
        mine_every: steps of stage 2 between minings; once if null.
        hard_negatives: in place of mining before stage 2: a file of `unimur mine`, or own, those of the set.
        stage2_training: fields of `training` that stage 2 has otherwise.
        dev_split: split that evaluations and early stopping use.
        test_split: split of the figures at the end; null for none.
        final_figures: whether both splits are measured before training and after each stage.
        dev_documents: documents that evaluations during training search; all by default.
    """

    retrieval: str | list[str] = "gimp_manual"
    train_splits: list[str] = field(default_factory=lambda: ["train"])
    generated_splits: list[str] = field(default_factory=list)
    round_trip: int = 3
    round_trip_bm25: float = 0.0
    distillation: dict = field(default_factory=dict)
    captions: str = "raw"
    stage2_captions: str | None = None
    deduplicate: str | None = None
    verbalizations: str | None = None
    train_tokens: int | None = None
    stages: list[int] = field(default_factory=lambda: [1, 2])
    sampler: str = "balanced"
    image_negatives: int = 1
    text_negatives: int = 1
    least_score: int = 1
    mask_known: bool = True
    false_negative_threshold: float | None = None
    mining_depth: int = 100
    mining_joint: bool = True
    mining_keep: int | None = None
    mining_drop_same_text: bool = True
    mining_drop_same_group: bool = True
    mining_max_similarity: float | None = None
    mining_reranker: str | None = None
    mining_max_score: float | None = None
    mining_absolute_margin: float | None = None
    mining_relative_margin: float | None = None
    mine_every: int | None = None
    hard_negatives: str | None = None
    stage2_training: dict = field(default_factory=dict)
    dev_split: str = "validation"
    test_split: str | None = "test"
    final_figures: bool = True
    dev_documents: int | None = None

    def __post_init__(self):
        super().__post_init__()
        if not self.stages or list(self.stages) != sorted(set(self.stages) & {1, 2}):
            raise ValueError(f"stages is [1], [2] or [1, 2], not {self.stages}.")
        if self.mine_every is not None and self.mine_every < 1:
            raise ValueError(f"mine_every must be a positive number of steps, got {self.mine_every}.")
        if self.round_trip < 1:
            raise ValueError(f"round_trip must be a positive number of documents, got {self.round_trip}.")
        if not 0 <= self.round_trip_bm25 <= 1:
            raise ValueError(f"round_trip_bm25 must be a weight from 0 to 1, got {self.round_trip_bm25}.")
        self.stage_sampler(2)
        self.mining_options()
        self.distillation_options()

    def stage_sampler(self, stage: int) -> Sampler:
        """How a stage chooses candidates."""
        return Sampler("in_batch" if stage == 1 else self.sampler, self.image_negatives, self.text_negatives)

    def distillation_options(self) -> Distillation | None:
        """What is learned from a teacher's scores."""
        return Distillation(**self.distillation) if self.distillation else None

    def mining_options(self) -> MiningOptions:
        """What mining drops."""
        return MiningOptions(**{one.name: getattr(self, f"mining_{one.name}") for one in fields(MiningOptions)})
