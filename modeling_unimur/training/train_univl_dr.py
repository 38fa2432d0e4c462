"""Training of UniVL-DR: in-batch, then against mined hard negatives of both modalities."""

import copy
import functools
import json
import logging
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch
from transformers import set_seed

from .. import UniVLDRModel, UniVLDRProcessor
from ..data.atomic_files import write_json
from ..data.registry import load_retrieval_set
from ..encoding.encoder import Encoder
from ..evaluation.universal import RetrievalTask, bm25_system, dense_system
from ..index.second_stage import open_reranker
from ..verbalization.verbalize import joined_captions, read_words
from .arguments import RetrievalTrainingArguments
from .callbacks import EpochDraws, TrainingGuard
from .checkpoints import starting_point
from .distillation import START, Distillation, FileTeacher, PairTeacher, SystemTeacher, Teacher, read_scores
from .documents import DecodedImages, Documents, PooledImages
from .mining import mine_rows, mined_of, read_mined, write_mined
from .query_rows import Mined, QueryCollator, QueryRows
from .recipes import Recipe
from .retrieval_judge import RetrievalJudge
from .round_trip import failed_round_trips
from .text_encoders import load_text_space
from .trainer import parameter_report
from .univl_dr_trainer import HardNegativeMiningCallback, UniVLDRTrainer, choose_trained_parts

logger = logging.getLogger(__name__)

_RESULTS, _MINED = "results.json", "hard_negatives-train.parquet"


def build(recipe: Recipe) -> "tuple[UniVLDRModel, UniVLDRProcessor]":
    """A recipe's model, on a dual encoder or as an earlier run left it, with its trained parts chosen; and its
    processor.

    Raises:
        ValueError: `model.config` for a folder that holds a UniVL-DR, whose configuration is its own.
    """
    chosen = recipe.model
    hub = {"revision": chosen.clip_revision} if chosen.clip_revision else {}
    about, _ = UniVLDRModel.config_class.get_config_dict(chosen.clip, **hub)
    if about.get("model_type") == UniVLDRModel.config_class.model_type:
        if chosen.config:
            raise ValueError(f"{chosen.clip} is a UniVL-DR with a configuration of its own: leave model.config out.")
        model = UniVLDRModel.from_pretrained(chosen.clip, **hub)
        processor = UniVLDRProcessor.from_pretrained(chosen.clip, **hub)
        for name, value in chosen.processor.items():
            setattr(processor, name, value)
    else:
        model = UniVLDRModel.from_backbones(chosen.clip, clip_revision=chosen.clip_revision, **chosen.config)
        processor = UniVLDRProcessor.from_backbones(
            chosen.clip, clip_revision=chosen.clip_revision, **chosen.processor
        )
    choose_trained_parts(model, processor.tokenizer, chosen.image_tower, chosen.text_layers)
    return model, processor


class _Run:
    """Everything that the stages of one run share."""

    def __init__(self, recipe: Recipe):
        self.recipe, self.data, self.args = recipe, recipe.data, recipe.training
        self.output = Path(self.args.output_dir)
        self.model, self.processor = build(recipe)
        trained = ((name, weight) for name, weight in self.model.named_parameters() if weight.requires_grad)
        self.start = {name: weight.detach().clone() for name, weight in trained}
        captions = [self.data.captions, self.data.stage2_captions or self.data.captions]
        source, merged = self.data.retrieval, self.data.deduplicate
        loaded = {name: load_retrieval_set(source, name, merged) for name in dict.fromkeys(captions)}
        sets = [loaded[name] for name in captions]
        if self.data.verbalizations:
            words = read_words(self.data.verbalizations)
            sets[1] = replace(sets[1], corpus=joined_captions(sets[1].corpus, words, self.processor))
        documents = [Documents(sets[0])]
        documents.append(documents[0] if sets[1] is sets[0] else Documents(sets[1]))
        self.sets = {stage: (sets[stage - 1], documents[stage - 1]) for stage in (1, 2)}
        self.images = self._images(documents[0])
        self.failed = self._failed_round_trips()
        distilled = self.data.distillation_options()
        self.teacher = None if distilled is None else self._teacher(distilled)

    def _images(self, documents: Documents):
        if self.model.config.fusion == "caption" or self.recipe.model.image_tower == "unused":
            return None
        if self.recipe.model.image_tower == "trained":
            return DecodedImages(self.processor)
        with self.args.main_process_first(local=False, desc="frozen features"):
            return PooledImages(self.model, self.processor, documents.images, self.data.feature_options())

    @functools.cached_property
    def start_vectors(self) -> torch.Tensor:
        """Vectors of the corpus before training `(documents, width)`, by what stage 1 reads."""
        self.model.to(self.args.device)
        return self._encoder().encode_documents(list(self.sets[1][1]), self.images)

    def _encoder(self) -> Encoder:
        return Encoder(self.model, self.processor, self.precision, progress=True)

    def _failed_round_trips(self) -> "set[str]":
        """Generated queries that are not trained on."""
        retrieval, failed = self.sets[1][0], set()
        for split in self.data.generated_splits:
            if split in retrieval.queries:
                task = RetrievalTask.from_set(retrieval, split, self.data.least_score)
                vectors = (self._encoder().encode_queries(task.query_texts), self.start_vectors)
                found = failed_round_trips(task, *vectors, self.data.round_trip, self.data.round_trip_bm25)
                logger.info("Round trip: %d of %d queries of %s kept", len(task.query_ids) - len(found),
                            len(task.query_ids), split)  # fmt: skip
                failed |= found
        return failed

    def _teacher(self, chosen: Distillation) -> Teacher:
        """What gives scores of a batch's candidates."""
        documents, name = self.sets[1][1], chosen.teacher
        if Path(name).suffix in (".parquet", ".jsonl"):
            return FileTeacher(read_scores(name), documents)
        rows, space = self.rows(1, sampled=False), None
        if name != START:
            try:
                return PairTeacher(open_reranker(name), documents)
            except ValueError:  # it gives no scores of pairs: an encoder
                space = load_text_space(name)
        texts, is_image = documents.texts, np.array(documents.kinds) == "image"
        if space is None:
            queries, vectors = self._encoder().encode_queries(rows.texts), self.start_vectors
        else:
            queries, vectors = space.encode_queries(rows.texts), space.encode_documents(texts)
        system = dense_system(queries.numpy(), vectors.numpy(), is_image)
        words = bm25_system(rows.texts, texts, is_image) if chosen.bm25 else None
        return SystemTeacher(system, rows.queries, words, chosen.bm25)

    @property
    def precision(self) -> "torch.dtype | None":
        """Of the steps' autocast, for what is computed outside of them."""
        return torch.bfloat16 if self.args.bf16 else torch.float16 if self.args.fp16 else None

    def judge(self, stage: int, split: str, most: "int | None" = None) -> RetrievalJudge:
        """What measures a split, with the captions of a stage."""
        return RetrievalJudge(
            *self.sets[stage],
            split,
            self.processor,
            self.images,
            most,
            self.data.least_score,
            self.args.seed,
            self.precision,
        )

    def average_with_start(self) -> None:
        """Leaves `model.trained_share` of the way from the start to the trained weights (WiSE-FT, Wortsman et al.
        2022): between the two, a model that was fine-tuned on little keeps what it knew before."""
        share, weights = self.recipe.model.trained_share, dict(self.model.named_parameters())
        with torch.no_grad():
            for name, before in self.start.items():
                weights[name].copy_(torch.lerp(before.to(weights[name].device), weights[name], share))

    def figures(self, stage: int) -> "dict[str, dict[str, float]]":
        """Of the model as it stands, over the whole corpus: `dev` and `test`."""
        self.model.to(self.args.device)
        splits = {"dev": self.data.dev_split, "test": self.data.test_split}
        judges = {label: self.judge(stage, split) for label, split in splits.items() if split is not None}
        vectors = next(iter(judges.values())).embed(self.model)  # both search the same documents
        return {label: judge(self.model, vectors) for label, judge in judges.items()}

    def rows(self, stage: int, mined: "Mined | None" = None, sampled: bool = True) -> QueryRows:
        """Training queries of a stage; without their sampler, all of them."""
        sampler = self.data.stage_sampler(stage if sampled else 1)
        return QueryRows(
            *self.sets[stage],
            [*self.data.train_splits, *self.data.generated_splits],
            sampler,
            mined,
            self.args.seed,
            self.data.least_score,
            self.failed,
        )

    def mine(self) -> Mined:
        """Hard negatives by the model as it stands, with the captions of stage 1 (as released)."""
        self.model.to(self.args.device)
        _, documents = self.sets[1]
        rows = self.rows(1, sampled=False)
        options = self.data.mining_options()
        return mine_rows(self.model, self.processor, rows, documents, self.images, options, self.precision)

    def mined(self) -> Mined:
        """What stage 2 starts with: a file's, those that this run has written, or new ones."""
        if self.data.hard_negatives == "own":
            table = self.sets[1][0].hard_negatives.get("train")
            if table is None:
                raise ValueError(f"{self.data.retrieval} brings no hard negatives: leave data.hard_negatives out.")
            return mined_of(table)
        if self.data.hard_negatives:
            return read_mined(self.data.hard_negatives)
        path = self.output / _MINED
        with self.args.main_process_first(local=False, desc="mining"):  # the others read what the first one wrote
            if not path.is_file():
                write_mined(self.mine(), path)
        return read_mined(path)


def stage_arguments(recipe: Recipe, stage: int) -> RetrievalTrainingArguments:
    """A stage's own training arguments, in a folder `stage<number>` of the run's.

    Raises:
        ValueError: `data.stage2_training` names what no training argument is called.
    """
    args = copy.copy(recipe.training)
    args.output_dir = str(Path(recipe.training.output_dir) / f"stage{stage}")
    if stage == 2:
        known = {entry.name for entry in fields(args)}
        for name, value in recipe.data.stage2_training.items():
            if name not in known or name == "output_dir":
                raise ValueError(f"data.stage2_training: {name!r} is not a training argument that a stage can have.")
            setattr(args, name, value)
    return args


def _train_stage(run: _Run, stage: int, resume: bool) -> None:
    args, data, model = stage_arguments(run.recipe, stage), run.data, run.model
    start = starting_point(args, resume) if resume else None
    sampler = data.stage_sampler(stage)
    rows = run.rows(stage, run.mined() if sampler.hard else None)
    judge = run.judge(stage, data.dev_split, data.dev_documents)
    collator = QueryCollator(
        run.processor,
        run.sets[stage][1],
        run.images,
        sampler,
        data.mask_known,
        data.false_negative_threshold,
        data.train_tokens,
        run.teacher,
    )
    callbacks = [TrainingGuard(model), EpochDraws(rows)]
    if data.mine_every is not None and sampler.hard:
        callbacks.append(HardNegativeMiningCallback(rows, run.mine, data.mine_every))
    trainer = UniVLDRTrainer(
        model=model,
        args=args,
        data_collator=collator,
        train_dataset=rows,
        eval_dataset=rows,  # evaluation is retrieval, by `recalls`
        recalls=judge,
        processing_class=run.processor,
        callbacks=callbacks,
        distillation=data.distillation_options(),
    )
    logger.info("Stage %d (%s): %d queries", stage, sampler.name, len(rows))
    trainer.train(resume_from_checkpoint=start)
    if trainer.is_world_process_zero():
        model.save_pretrained(args.output_dir)
        run.processor.save_pretrained(args.output_dir)


def train(recipe: Recipe, resume: bool = False, overwrite: bool = False) -> dict:
    """Runs a recipe of task `univl_dr`.

    Writes to `training.output_dir`: the model and its processor; `stage1` and `stage2` with their checkpoints and
    models; `hard_negatives-train.parquet`; and `results.json` with retrieval figures of the development split, and of
    the test split, before training, after each stage, and of the average with the start.

    Args:
        recipe: the run.
        resume: goes on from the last complete checkpoint of the stage that was cut off; finished stages are kept.
        overwrite: starts again.

    Raises:
        ValueError: the recipe asks for what this task has not, or the output folder holds checkpoints and neither
            `resume` nor `overwrite` says what becomes of them.
    """
    args = recipe.training
    if args.gradient_cache_chunk is not None or getattr(args, "sharding", None):
        raise ValueError(
            "Task univl_dr trains whole batches on whole models: leave gradient_cache_chunk and fsdp out."
        )
    if recipe.data.mine_every is not None and args.dataloader_num_workers:
        raise ValueError(
            "Workers would not see negatives mined meanwhile: with mine_every, no dataloader_num_workers."
        )
    if args.resume_from_checkpoint:
        raise ValueError("Task univl_dr has stages with checkpoints of their own: go on with --resume.")
    output = Path(args.output_dir)
    if not resume:
        for stage in recipe.data.stages:
            starting_point(stage_arguments(recipe, stage), overwrite=overwrite)
        if args.process_index == 0:
            for name in (_RESULTS, _MINED):
                (output / name).unlink(missing_ok=True)
    set_seed(args.seed)
    run = _Run(recipe)
    logger.info("%s", parameter_report(run.model))
    results = {"task": "univl_dr", "seed": args.seed, "documents": len(run.sets[1][1])}
    results |= {f"stage{stage}_corpus": about for stage in (1, 2) if (about := dict(run.sets[stage][0].about))}
    if resume and (output / _RESULTS).is_file():
        results = json.loads((output / _RESULTS).read_text(encoding="utf-8"))
    first = recipe.data.stages[0]
    if "untrained" not in results:
        _note(run, results, "untrained", first)
    for stage in recipe.data.stages:
        name = f"stage{stage}"
        if name in results:
            logger.info("Stage %d is finished: its model is loaded", stage)
            run.model.load_state_dict(UniVLDRModel.from_pretrained(run.output / name).state_dict())
            continue
        _train_stage(run, stage, resume)
        _note(run, results, name, stage)
    if recipe.model.trained_share < 1:
        run.average_with_start()
        _note(run, results, "averaged", recipe.data.stages[-1])
    if args.process_index == 0:
        run.model.save_pretrained(run.output)
        run.processor.save_pretrained(run.output)
    return results


def _note(run: _Run, results: dict, name: str, stage: int) -> None:
    """Judges the model as it stands and writes the figures down."""
    results[name] = run.figures(stage) if run.data.final_figures else {}
    if run.args.process_index == 0:
        write_json(run.output / _RESULTS, results)
