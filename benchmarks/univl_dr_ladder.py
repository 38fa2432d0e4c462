"""UniVL-DR's ladder on corpora that anybody can install: each of its steps, and what it is compared with.

    python benchmarks/univl_dr_ladder.py [--corpora gimp_manual image_dictionary] [--seeds 3] [--verbalize SET=NAME]
        [--reranker MODEL]
    python benchmarks/univl_dr_ladder.py --full --corpora webqa=PATH        (the paper's recipe; a GPU)

By default the small dual encoder and `recipes/univl_dr_ladder.yaml`, sized for two CPU cores: image tower frozen and
its outputs kept, two layers of the text tower and the projections trained, 100 steps a stage. `--full`:
`recipes/univl_dr_webqa.yaml`, CLIP ViT-B/32 with both towers trained. One stage 1 feeds all of stage 2, whose
negatives it mines once; seeds are those of stage 2.

Rows, all on the test split, over one index of texts and images, with the weight of images that the development
split chooses for the untrained encoder (`plain sum` and `--full`: 1, the paper's):
- `BM25` (images by their captions); `zero-shot`, `zero-shot, plain sum`; `in-batch` (stage 1); `+ hard negatives,
  unbalanced`; `+ hard negatives, balanced` (stage 2); `+ verbalization` (balanced, generated words behind captions);
- `BM25 & ...`: divide and conquer, BM25 for texts and the dense model for images, and the same with an oracle of
  the modality; `... + BM25 (hybrid)`, its weight chosen on the development split; `..., oracle modality`;
- `hybrid + second stage`, with `--reranker`: the first 20 of the hybrid in the reranker's order;
  `hybrid + weighted second stage`: by the sum of both scores, each scaled to 0 to 1 over the 20, with the weight that
  the development split chooses;
- `..., captions hidden`: images without their words (the setting of images alone tells most).

Figures: MRR and NDCG at 10 and 20, recall at 20 and 100, in percent; 95 % intervals of MRR@10 by the bootstrap over
queries, seeds averaged first; differences paired over queries. Shares of images among the first ten by kind of query
stand beside those of the relevant documents. `aims` says whether the balanced model beats BM25 & zero-shot without an
oracle, and how far its shares are from those of the relevant.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from benchmarks.harness import RESULTS, ROOT, argument_parser, run_record
from benchmarks.ladder_rows import (
    BALANCED,
    HIDDEN,
    HYBRID,
    IN_BATCH,
    PLAIN,
    UNBALANCED,
    VERBAL,
    ZERO,
    Rows,
    aims,
    comparisons,
    lines_of,
    second_stages,
)
from modeling_unimur import UniVLDRModel, UniVLDRProcessor
from modeling_unimur.data.atomic_files import write_json
from modeling_unimur.data.registry import load_retrieval_set
from modeling_unimur.data.retrieval_set import RetrievalSet
from modeling_unimur.encoding.encoder import Encoder
from modeling_unimur.evaluation.report import aligned
from modeling_unimur.evaluation.universal import (
    DivideAndConquer,
    RetrievalTask,
    Space,
    bm25_system,
    choose_image_weight,
    dense_system,
    with_bm25,
)
from modeling_unimur.index.second_stage import open_reranker
from modeling_unimur.training.documents import PooledImages
from modeling_unimur.training.recipes import Recipe, load_recipe
from modeling_unimur.training.train_univl_dr import build, train
from modeling_unimur.verbalization import joined_captions, open_verbalizer, verbalize, write_words

CORPORA = ("gimp_manual", "image_dictionary")
# The GIMP manual's figures are screenshots, whose letters say most; a drawing has none.
VERBALIZERS = {"gimp_manual": "ocr"}
RECIPES = {False: ROOT / "recipes" / "univl_dr_ladder.yaml", True: ROOT / "recipes" / "univl_dr_webqa.yaml"}
# Grades that count as relevant: of a manual the section or image meant, not what is near it.
LEAST_SCORES = dict.fromkeys(("gimp_manual", "gnucash_manual", "debian_handbook"), 2)
QUICK_STEPS = 2


class Ladder:
    """One corpus: its recipe, its trained models, its rows.

    Args:
        corpus: as `data.retrieval` of a recipe names it.
        args: of the command.
        folder: for runs; a run that is there is taken, not trained again.
    """

    def __init__(self, corpus: str, args: argparse.Namespace, folder: Path):
        self.corpus, self.args, self.folder = corpus, args, folder
        self.score = LEAST_SCORES.get(corpus, 1)
        # The recipe of WebQA takes its corpus as released; another set has no such choice.
        of_webqa = corpus.startswith("webqa=")
        self.deduplicate = load_recipe(RECIPES[args.full]).data.deduplicate if of_webqa else None
        self.retrieval = load_retrieval_set(corpus, deduplicate=self.deduplicate)
        self.task = RetrievalTask.from_set(self.retrieval, "test", self.score)
        self.dev = RetrievalTask.from_set(self.retrieval, "validation", self.score)
        self.rows = Rows(self.task)
        self.kept: PooledImages | None = None
        self.image_weight: float | None = None  # the recipe's until `choose_weight`

    # -- training -----------------------------------------------------------------------------------------------------
    def recipe(self, output: Path, *overrides: str) -> Recipe:
        """The recipe of one run."""
        chosen = [
            f"data.retrieval={json.dumps(self.corpus)}",
            f"data.least_score={self.score}",
            "data.stage2_captions=null",
            f"data.deduplicate={json.dumps(self.deduplicate)}",
            "data.final_figures=false",  # measured here, with everything else
            f"training.output_dir={json.dumps(str(output))}",
        ]
        if self.image_weight is not None:
            config = {**load_recipe(RECIPES[self.args.full]).model.config, "image_weight": self.image_weight}
            chosen.append(f"model.config={json.dumps(config)}")
        if self.args.clip:
            chosen.append(f"model.clip={json.dumps(self.args.clip)}")
        if self.args.quick:
            chosen += [
                f"training.max_steps={QUICK_STEPS}",
                "training.per_device_train_batch_size=4",
                "training.eval_strategy=no",
                "training.save_strategy=no",
                "training.load_best_model_at_end=false",
                "data.mining_drop_same_group=false",
                "model.text_layers=1",
            ]
        return load_recipe(RECIPES[self.args.full], [*chosen, *overrides, *self.args.overrides])

    def trained(self, name: str, *overrides: str) -> Path:
        """The folder of a run, trained where it is not there yet."""
        output = self.folder / name
        if not (output / "model.safetensors").is_file():
            train(self.recipe(output, *overrides), overwrite=True)
            gc.collect()
        return output

    def stage1(self) -> Path:
        """In-batch training."""
        return self.trained("in_batch", "data.stages=[1]", "training.seed=0")

    def stage2(self, name: str, seed: int, sampler: str, *overrides: str) -> Path:
        """Training against hard negatives, from stage 1; they are mined by the first run and read by the others."""
        mined = self.folder / "hard_negatives.parquet"
        own = [f"model.clip={json.dumps(str(self.stage1()))}", "model.config={}", "data.stages=[2]"]
        own += [f"data.sampler={sampler}", f"training.seed={seed}"]
        if mined.is_file():
            own.append(f"data.hard_negatives={json.dumps(str(mined))}")
        output = self.trained(f"{name}-{seed}", *own, *overrides)
        if not mined.is_file():
            shutil.copyfile(output / "hard_negatives-train.parquet", mined)
        return output

    # -- measuring ----------------------------------------------------------------------------------------------------
    def space(self, source: Path | None, retrieval: RetrievalSet | None = None) -> Space:
        """Vectors of a trained model, or of the dual encoder before training; `retrieval` is the corpus with other
        captions."""
        recipe = self.recipe(self.folder / "none")
        if source is None:
            model, processor = build(recipe)
        else:
            model, processor = UniVLDRModel.from_pretrained(source), UniVLDRProcessor.from_pretrained(source)
        place = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        model.to(place).eval()
        pooled = None
        if recipe.model.image_tower == "frozen":  # the same in every row
            if self.kept is None:
                self.kept = PooledImages(model, processor, self.task.doc_images)
            pooled = self.kept.lookup
        task, dev = self.task, self.dev
        if retrieval is not None:
            task = RetrievalTask.from_set(retrieval, "test", self.score)
            dev = RetrievalTask.from_set(retrieval, "validation", self.score)
        return Space(Encoder(model, processor, pooled=pooled, progress=not self.args.quick), task, dev)

    def run(self) -> Rows:
        """Everything."""
        rows, sparse = self.rows, bm25_system(self.task.query_texts, self.task.doc_texts, self.task.is_image)
        rows.add("BM25", sparse)
        zero = self.space(None)
        if not self.args.full:
            self.choose_weight(zero)
        rows.add(ZERO, zero.system())
        rows.add(PLAIN, dense_system(zero.queries, zero.encoded.weighted(1.0), self.task.is_image))
        rows.add(f"BM25 & {ZERO}", DivideAndConquer(sparse, zero.system()))
        first = self.space(self.stage1())
        rows.add(IN_BATCH, first.system())
        for row in list(with_bm25(IN_BATCH, first)[0].items())[1:3]:  # the paper's BM25 & CLIP-DPR
            rows.add(*row)
        for seed in range(self.args.seeds):
            rows.add(UNBALANCED, self.space(self.stage2("unbalanced", seed, "unbalanced")).system())
            balanced = self.space(self.stage2("balanced", seed, "balanced"))
            rows.add(BALANCED, balanced.system())
            if seed == 0:
                self._beside(balanced, zero)
        self._verbalized()
        return rows

    def choose_weight(self, zero: Space) -> None:
        """The images' weight in the sum: of those above 0, the best of the untrained encoder on dev."""
        choice = choose_image_weight(zero.dev_queries, zero.encoded, self.dev)
        shown = {weight: found for weight, found in choice.tried.items() if weight > 0}
        self.image_weight = max(shown, key=shown.get)
        zero.documents = zero.encoded.weighted(self.image_weight)
        tried = ", ".join(f"{weight:g}: {found:.1f}" for weight, found in choice.tried.items())
        self.rows.notes.append(f"images' weight {self.image_weight:g}, of (zero-shot MRR@10 on dev) {tried}")

    def _beside(self, space: Space, zero: Space) -> None:
        """The balanced model with BM25 and with an oracle; and what is left without captions."""
        others, weight = with_bm25("balanced", space)
        for row in list(others.items())[1:]:
            self.rows.add(*row)
        self.rows.notes.append(f"hybrid: BM25's weight {weight.value:g}, of {weight.tried}")
        if self.args.reranker:
            stages, choice = second_stages(space, others[HYBRID], weight.value, open_reranker(self.args.reranker))
            for row in stages.items():
                self.rows.add(*row)
            self.rows.notes.append(f"second stage: {self.args.reranker}, weight {choice.value:g}, of {choice.tried}")
        for made, name in ((zero, ZERO), (space, BALANCED)):
            bare = made.encoded.without_captions()
            self.rows.add(name + HIDDEN, dense_system(made.queries, bare.fused(made.encoder), self.task.is_image))
        words = np.where(self.task.is_image, "", np.array(self.task.doc_texts, dtype=object)).tolist()
        self.rows.add("BM25" + HIDDEN, bm25_system(self.task.query_texts, words, self.task.is_image))

    def _verbalized(self) -> None:
        name = self.args.verbalizers.get(self.corpus)
        if name is None:
            self.rows.notes.append(f"no verbalizer for {self.corpus}: no row {VERBAL}")
            return
        if name == "released":  # the captions of UniVL-DR's data.zip with a generated query behind them
            source = self.stage2("verbalized", 0, "balanced", "data.stage2_captions=query")
            verbal = load_retrieval_set(self.corpus, "query", self.deduplicate)
            self.rows.add(VERBAL, self.space(source, verbal).system())
            return
        try:
            words = verbalize(self.retrieval.corpus, open_verbalizer(name))
        except FileNotFoundError as error:
            self.rows.notes.append(f"{VERBAL} is left out: {error}")
            return
        path = self.folder / "words.jsonl"
        write_words(words, path)
        room = "model.processor={max_target_tokens: 64, verbalization_tokens: 24}"
        told = [f"data.verbalizations={json.dumps(str(path))}", *([] if self.args.full else [room])]
        source = self.stage2("verbalized", 0, "balanced", *told)
        processor = UniVLDRProcessor.from_pretrained(source)
        corpus = joined_captions(self.retrieval.corpus, words, processor)
        self.rows.add(VERBAL, self.space(source, replace(self.retrieval, corpus=corpus)).system())
        found = sum(map(bool, words.values()))
        self.rows.notes.append(f"verbalized by {name}: {found:,} of {len(words):,} images have words")


def save(corpus: str, result: dict, full: bool) -> None:
    """Puts one corpus' result into the file, beside those of other corpora."""
    output = RESULTS / ("univl_dr_ladder_full.json" if full else "univl_dr_ladder.json")
    kept = json.loads(output.read_text(encoding="utf-8")) if output.is_file() else {"corpora": {}}
    kept["corpora"][corpus] = result
    write_json(output, kept, allow_nan=False)
    print(f"{corpus}: written to {output.relative_to(ROOT)}")


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--corpora", nargs="+", default=list(CORPORA), help=f"default: {' '.join(CORPORA)}")
    parser.add_argument("--seeds", type=int, default=3, help="of stage 2, balanced and unbalanced (default 3)")
    parser.add_argument("--full", action="store_true", help="the paper's recipe")
    parser.add_argument("--clip", help="dual encoder to start from, in place of the recipe's")
    parser.add_argument(
        "--verbalize",
        nargs="*",
        metavar="SET=NAME",
        help="what puts a set's images into words, as `unimur verbalize` takes it, or `released` for the words of "
        "UniVL-DR's data.zip (default: gimp_manual=ocr)",
    )
    parser.add_argument("--reranker", metavar="MODEL", help="second stage for two more rows")
    parser.add_argument("--runs", type=Path, help="folder for the runs (default: runs/univl_dr_ladder)")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.FIELD=VALUE", help="win over the recipe")
    args = parser.parse_args()
    args.verbalizers = VERBALIZERS
    if args.verbalize is not None:  # a set's own name may hold "="
        args.verbalizers = {
            corpus: entry[len(corpus) + 1 :]
            for corpus in args.corpora
            for entry in args.verbalize
            if entry.startswith(f"{corpus}=")
        }
    swallowed = [corpus for corpus in args.corpora if corpus.startswith(("model.", "data.", "training."))]
    if swallowed:
        parser.error(f"{swallowed[0]} stands behind --corpora: put overrides before it")
    if args.seeds < 1:
        parser.error("--seeds is at least 1")
    with tempfile.TemporaryDirectory() as aside:
        runs = Path(aside) if args.quick else args.runs or ROOT / "runs" / "univl_dr_ladder"
        figures = {}
        for number, corpus in enumerate(args.corpora):
            rows = Ladder(corpus, args, runs / (corpus if corpus in CORPORA else f"corpus-{number}")).run()
            differences = comparisons(rows)
            found = aims(rows, differences)
            figures |= {f"{corpus} {name}": value for name, value in found.items()}
            figures |= {
                f"{corpus} {name} mrr@10": rows.found.interval(name, "both mrr@10").mean for name in rows.found.systems
            }
            lines = lines_of(corpus, rows)
            result = {
                **run_record(),
                "recipe": RECIPES[args.full].name,
                "seeds": args.seeds,
                "table": aligned(lines).split("\n"),
                "systems": rows.summary(),
                "differences": differences,
                "aims": found,
                "notes": rows.notes,
                "queries": len(rows.task.query_ids),
                "documents": {"text": int((~rows.task.is_image).sum()), "image": int(rows.task.is_image.sum())},
            }
            if not args.quick:
                save(corpus, result, args.full)
                print(aligned(lines), flush=True)
                for pair, found in differences.items():
                    print(f"{pair}: {found['mean']:+.1f} [{found['low']:+.1f}, {found['high']:+.1f}]", flush=True)
    if args.quick:
        print(json.dumps({name: float(f"{value:.6g}") for name, value in figures.items()}, allow_nan=False))


if __name__ == "__main__":
    main()
