"""Arguments of training runs: those of each task, and those that a run has beyond `transformers.TrainingArguments`."""

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

# `accelerate launch --use_fsdp` sets nothing but environment variables.
_LAUNCHER_SHARDS = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
_SHARDING = {"reshard_after_forward": True, "cpu_offload": False}


def _is_true(value) -> bool:
    # accelerate still writes the names of FSDP1's strategies.
    return str(value).lower() in ("true", "1", "full_shard", "hybrid_shard")


@dataclass
class RetrievalTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with the arguments of contrastive training.

    `fsdp` and `fsdp_config` (or `accelerate launch --use_fsdp`) shard the frozen language model over the processes.
    The trained weights are a few MB: they are replicated, and their gradients are reduced as they are without
    sharding. So checkpoints are the same with and without sharding, and a run can be resumed under another launcher.
    Of `fsdp_config`, only `reshard_after_forward` and `cpu_offload` are used.

    With `gradient_accumulation_steps`, the loss is the mean over the micro-batches, each of which has its own
    negatives and its own mean over label tokens. To enlarge the batch itself, and with it the number of negatives, use
    `gradient_cache_chunk`.

    Args:
        gradient_cache_chunk: Number of rows of a batch that run through the model at a time. The loss still sees the
            whole batch (GradCache).
        max_logit_scale: Largest factor on the cosines, which keeps training stable (100 in CLIP). Null sets no limit.
        rescale_ret: Whether to rescale the [RET] vectors to the mean norm of the vocabulary after each step, as
            FROMAGe does.
        early_stopping_patience: Number of evaluations in a row without a better metric_for_best_model after which
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
            self.restore_callback_states_from_checkpoint = True  # the count of evaluations is such a state

    def _take_sharding(self) -> dict | None:
        """Takes `fsdp` and `fsdp_config` away from `Trainer`, whose own sharding would shard trained scalars too.

        Returns:
            The options with which the frozen part is sharded, or None where it is not.
        """
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
    """The dual encoder that the task clip trains.

    Args:
        clip: Hub id or folder of the dual encoder. $UNIMUR_CACHE is expanded.
        clip_revision: Commit, tag or branch on the Hub of the dual encoder.
        image_head: Arguments of a new ImageHead of an open_clip model, which is then trained. Needs data.images.
    """

    clip: str
    clip_revision: str | None = None
    image_head: dict | None = None


@dataclass
class UniMuRModelArguments:
    """The backbones of UniMuR and the heads on them.

    Args:
        clip: Hub id or folder of the dual encoder. $UNIMUR_CACHE is expanded.
        language_model: Hub id or folder of the language model.
        language_model_dtype: Data type of the frozen language model. bfloat16 is 2.6 times faster on processors with
            AMX.
        language_model_quantization: Quantization of the frozen language model: int8, int4 (both by torchao) or nf4 (by
            bitsandbytes).
        clip_revision: Commit, tag or branch on the Hub of the dual encoder.
        language_model_revision: Commit, tag or branch on the Hub of the language model.
        config: Arguments of UniMuRConfig.
        heads: Path of a file of trained heads to start from. With training.max_steps: 0, only the anchored query is
            fitted.
        processor: Arguments of UniMuRProcessor.
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
    """How the features of the frozen towers are computed and stored.

    Args:
        feature_dtype: Data type of the features on disk. bfloat16 halves their size, with a relative error of at most
            2^-8 in each value.
        feature_batch_size: Number of images that pass through the frozen tower at a time.
        feature_workers: Number of processes that decode images. Depends on the number of CPUs and of images by
            default.
        feature_shard_rows: Number of rows in a file of features, which is also the most that a killed run has to
            compute again.
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
        """Returns how the frozen towers run and how their features are stored."""
        return FeatureOptions(
            stored=getattr(torch, self.feature_dtype),
            workers=self.feature_workers,
            image_batch=self.feature_batch_size,
            text_batch=4 * self.feature_batch_size,
            shard_rows=self.feature_shard_rows,
        )


@dataclass
class _ImageArguments(_FeatureArguments):
    """Captioned images, and the features that the frozen towers compute of them.

    Args:
        sources: Captioned images: openclipart, openmoji, stamps, folder=PATH; or cc3m=PATH alone, optionally with
            cc3m_validation=PATH and cc3m_test=PATH.
        held_out_fraction: Share of cc3m=PATH that is kept for validation and for test, for each of them that has no
            path of its own. Share of `images` that is kept for validation.
    """

    sources: list[str] = field(default_factory=lambda: ["openclipart", "openmoji", "stamps"])
    held_out_fraction: float = 0.005


def _require_one_of(arguments: object, name: str, allowed: tuple) -> None:
    if getattr(arguments, name) not in allowed:
        raise ValueError(f"{name} must be one of {allowed}, got {getattr(arguments, name)!r}.")


@dataclass
class ClipDataArguments(_ImageArguments):
    """The data of the task clip.

    Args:
        images: Captioned images to use in place of `sources`: a folder with captions.tsv (columns: file, tab,
            caption), the JSON file of Karpathy's splits, or the id of a dataset for `datasets`.
        title_share: Share of the rows that pair an image with its title. The other rows pair it with any of its texts.
    """

    images: str | None = None
    title_share: float = 0.4


@dataclass
class UniMuRDataArguments(_ImageArguments):
    """The data of the task unimur.

    Args:
        max_caption_tokens: Maximum number of tokens of a caption (24 in FROMAGe).
        image_context_fraction: Share of the contexts that hold an image and words. The other contexts hold words
            alone.
        two_pairs_fraction: Share of the contexts that begin with the caption of another pair, as an earlier turn of a
            dialogue.
        max_context_tokens: Maximum number of tokens of a context. The maximum of a caption by default.
        keep_context: Which tokens of a longer context are kept: latest, or first (as in FROMAGe).
        equal_captions_match: Whether training pairs with equal captions are positives of each other (false in
            FROMAGe).
        concatenate_captions: Probability that a row holds two images and their captions (0.5 in FROMAGe).
        anchor_texts: Kinds of dialogue that the anchored query is fitted on (see query_anchor), named as in `texts`,
            and the number of dialogues of each kind.
        max_anchor_tokens: Maximum number of tokens of such a dialogue. The latest tokens are kept.
        texts: Unpaired texts for textual matching: glosses, dialogues, questions, chats, long_dialogues, long_chats;
            chats=PATH, a file of your own chats in JSON lines; or package.module:function.
        text_fraction: Share of the rows that come from `texts`, if there are any.
        texts_per_source: Number of contexts that are taken from each source of texts, evenly spaced. All by default.
        own_words_share: Weight, in the target of an unpaired context, of the context's own words as the frozen text
            tower encodes them. The rest of the target is the text that answers the context. So the readout learns both
            what is said and what is meant.
        keep_prefixes_gb: Gigabytes of memory in which the outputs of the frozen language model are kept for reuse.
            With 0 none are kept.
        keep_prefixes_on_disk: Whether to keep these outputs in the cache folder for the next run too.
        closed_form_start: Whether to initialize the image map and the readout with ridge regressions over all rows.
        train_readout: Whether to train the readout with gradients too. The dimensions of a language model's hidden
            states differ a hundredfold in size, and the first steps undo a closed-form start at any learning rate. A
            short run does better with `false` and refit_readout.
        refit_readout: Whether to solve the readout once more after training. The solution is kept if it is better on
            the dev split.
        refit_texts_per_source: Number of contexts of each source that the refit reads, once each. All by default.
        refit_texts: Further texts that only the refit reads: the names that `texts` takes, or words (of the glosses)
            and turns (of the dialogues), each of which is its own target.
        hard_negatives: Number of hard negatives of each modality for a context. They are mined with the model as it is
            before the first step (UniVL-DR's balanced sampler takes 1). 0 for none, as in UniMuR.
        captions_per_batch: Number of rows of a batch on which the caption loss is computed. All by default.
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
    """The dual encoder, and which of its parts are trained.

    Args:
        clip: Hub id or folder of a dual encoder, or of a UniVL-DR to train further. $UNIMUR_CACHE is expanded.
        clip_revision: Commit, tag or branch on the Hub of the dual encoder.
        config: Arguments of UniVLDRConfig, such as fusion.
        processor: Arguments of UniVLDRProcessor.
        image_tower: How the image tower takes part. trained: it is trained. frozen: its outputs are computed once and
            kept, and only its projection is trained. unused: captions alone stand for images in training, and the
            image tower does not change.
        text_layers: Number of top layers of the text tower that are trained. All of them and the embeddings by
            default.
        trained_share: Weight of the trained weights in the saved ones. The rest comes from the weights at the start
            (WiSE-FT). The folders of the stages keep the trained weights.
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
    """The data of the task univl_dr, and how the candidates of a query are chosen.

    Args:
        retrieval: Retrieval set to train on: gimp_manual, gnucash_manual or debian_handbook; webqa=PATH, in any of its
            layouts; folder=PATH of a saved RetrievalSet; or a list of these, whose documents share one index.
        train_splits: Splits whose queries are trained on. Splits that the set lacks are ignored.
        generated_splits: Splits of generated queries to train on too, without the queries that fail the round trip.
            Splits that the set lacks are ignored.
        round_trip: Number of top documents among which the model, before training, must find a positive of a generated
            query. Other generated queries are left out.
        round_trip_bm25: Weight of BM25 in that search, from 0 (the model alone) to 1 (see `index.hybrid.fuse`).
        distillation: Arguments of training.distillation.Distillation, such as teacher. Without them there is no
            distillation.
        captions: Which captions of UniVL-DR's data.zip to read: raw, expanded or query (verbalized images).
        stage2_captions: Which captions stage 2 is trained and evaluated with. Those of `captions` by default.
        deduplicate: Which documents of WebQA to merge: none (as released), texts (equal texts become one document) or
            all. texts by default.
        verbalizations: Path of a file of `unimur verbalize`. Stage 2 reads its words after the captions.
        train_tokens: Maximum number of tokens of a query, text or caption in training. max_target_tokens of the
            processor by default.
        stages: Stages to run. 1: training with in-batch negatives. 2: mining, and training with hard negatives.
        sampler: Sampler of stage 2: balanced, unbalanced, image_only, text_only, hard_in_batch or in_batch.
        image_negatives: Number of image negatives for a query (k1 in the paper).
        text_negatives: Number of text negatives for a query (k2 in the paper).
        least_score: Lowest relevance score of a positive. Documents with a lower score are not used as negatives
            either.
        mask_known: Whether to leave the other positives of a query out of its in-batch negatives (false in the
            released code).
        false_negative_threshold: Cosine with the positive from which a document of the batch is not used as a
            negative.
        mining_depth: Number of ranks that hard negatives are taken from.
        mining_joint: Whether to mine from one ranking of texts and images. Otherwise each kind has its own ranking.
        mining_keep: Maximum number of hard negatives of each kind for a query.
        mining_drop_same_text: Whether to drop documents with the same words as a positive.
        mining_drop_same_group: Whether to drop documents of the section or figure that a positive belongs to.
        mining_max_similarity: Cosine with a positive from which a document is dropped.
        mining_reranker: Name or folder of a CrossEncoder or MultiVectorEncoder, which drops what it scores above the
            best positive.
        mining_max_score: Score of the reranker above which a document is dropped.
        mining_absolute_margin: Documents are dropped unless the reranker scores them at least this much below the best
            positive.
        mining_relative_margin: As mining_absolute_margin, but as a share of the score of the best positive.
        mine_every: Number of steps of stage 2 after which hard negatives are mined anew. They are mined once by
            default.
        hard_negatives: Hard negatives to use in place of mining before stage 2: path of a file of `unimur mine`, or
            own for those of the set.
        stage2_training: Fields of `training` that differ in stage 2.
        dev_split: Split that evaluations during training, and with them early stopping, use.
        test_split: Split that the final figures are measured on too. Null for none.
        final_figures: Whether to evaluate on both splits before training and after each stage.
        dev_documents: Number of documents that evaluations during training search. All by default.
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
        """Returns how a stage chooses the candidates of a query."""
        return Sampler("in_batch" if stage == 1 else self.sampler, self.image_negatives, self.text_negatives)

    def distillation_options(self) -> Distillation | None:
        """Returns how the model learns from a teacher's scores, or None if it does not."""
        return Distillation(**self.distillation) if self.distillation else None

    def mining_options(self) -> MiningOptions:
        """Returns what mining takes for a hard negative."""
        return MiningOptions(**{one.name: getattr(self, f"mining_{one.name}") for one in fields(MiningOptions)})
