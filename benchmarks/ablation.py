"""Which loss and which readout: two ablations on real images, glosses and dialogues, test split.

    python benchmarks/ablation.py losses|readout|hard_negatives [--seeds 5]
    python benchmarks/ablation.py heads          # one run of each loss, kept for `unimur evaluate --model`

`losses`: visual matching alone (FROMAGe's alignment), textual matching alone, both; weights sum to one, so that both
gets no larger gradient; the learning rate of each arm is chosen on the development split. `readout`: what is read, one
change at a time. `hard_negatives`: a model of `both` goes on for as many steps again, with the candidates of its
batches alone, or with one hard negative of each modality beside them, which it has mined (UniVL-DR's balance). Every
run takes equally many steps of the same batches; a seed changes heads, rows and their order.

- `<set>_r1`, `<set>_r10`: recall in percent. Sets: `title_image`, `title_title` (unseen images), `gloss_title`,
  `dialogue_text`, `dialogue_image` (dialogues about unseen things).
- `consistency`: share of title contexts whose first text and first image belong together, right or wrong.
- `image_rate`: share of title contexts for which an image leads the joint ranking, each kind standardised.
  The last two definitions are ours.
- `difference`: of r10, `both` against either arm, or with hard negatives against without, paired over queries, with
  95 % bootstrap intervals.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from transformers import set_seed

from benchmarks.curves import draw_curves
from benchmarks.harness import RESULTS, ROOT, Partial, run_record
from modeling_unimur import UniMuRModel, UniMuRProcessor
from modeling_unimur.data.atomic_files import write_json
from modeling_unimur.evaluation.metrics import consistency_values, first_right_ranks, recall_at, recall_values
from modeling_unimur.evaluation.significance import paired_bootstrap
from modeling_unimur.training.alignment_data import load_data
from modeling_unimur.training.collators import DualAlignmentCollator
from modeling_unimur.training.dev_sets import recalls, scores
from modeling_unimur.training.hard_negative_rows import mine_hard_negatives
from modeling_unimur.training.prefix_store import PrefixStore
from modeling_unimur.training.recipes import Recipe, load_recipe
from modeling_unimur.training.train_unimur import build, prefix_store
from modeling_unimur.training.trainer import RetrievalTrainer

RATES = (1e-3, 3e-3)
LOSSES = {
    "visual": {"visual_matching_weight": 1.0, "textual_matching_weight": 0.0},
    "textual": {"visual_matching_weight": 0.0, "textual_matching_weight": 1.0},
    "both": {"visual_matching_weight": 0.5, "textual_matching_weight": 0.5},
}
# One change at a time from the first; `data` changes what is trained on.
READOUT = {
    "prompt, layers 15 22 last, 1 [RET]": {},
    "last layer": {"config": {"ret_layers": [-1]}},
    "layers 8 15 22 last": {"config": {"ret_layers": [8, 15, 22, -1]}},
    "4 [RET]": {"processor": {"num_ret_tokens": 4}},
    "titles alone": {"data": {"texts": []}},
    "a fifth with another pair before": {"data": {"two_pairs_fraction": 0.2}},
    # Last: nothing that was kept for the others fits it.
    "no prompt": {"processor": {"readout_prompt": ""}},
}
_SETS = ("title_image", "title_title", "gloss_title", "dialogue_text", "dialogue_image")


class Laboratory:
    """The frozen backbones with what they made of the contexts, shared by all runs."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.model, self.processor = build(recipe)
        self.store = prefix_store(self.model, recipe)
        data = load_data(self.model, recipe.model, recipe.data, recipe.training.seed)
        self.sets = {"dev": data.dev, "test": data.test}
        self._prompt = recipe.model.processor.get("readout_prompt", "")
        self._rows: dict = {}

    def untrained(self, seed: int, config: dict, processor: dict) -> tuple[UniMuRModel, UniMuRProcessor]:
        """New heads on the same backbones."""
        chosen = self.recipe.model
        made = UniMuRProcessor.from_backbones(chosen.language_model, chosen.clip, **{**chosen.processor, **processor})
        torch.manual_seed(seed)
        model = UniMuRModel.from_backbones(
            self.model.language_model, self.model.clip, processor=made, **{**chosen.config, **config}
        )
        return model, made

    def keep_for(self, prompt: str) -> None:
        """Prefixes hold the readout prompt: another one starts with an empty store, in memory alone."""
        if prompt != self._prompt:
            self.store.flush()
            self.store = PrefixStore(self.model, self.store.max_bytes)
            self._prompt = prompt

    def rows(self, changes: dict, seed: int):
        """What is trained on; the towers' features come from the disk."""
        key = json.dumps([changes, seed], sort_keys=True)
        if key not in self._rows:
            settings = copy.copy(self.recipe.data)
            for name, value in changes.items():
                setattr(settings, name, value)
            self._rows = {key: load_data(self.model, self.recipe.model, settings, seed).train}
        return self._rows[key]

    def run(
        self,
        seed: int,
        rate: float,
        split: str,
        config=None,
        processor=None,
        data=None,
        start: UniMuRModel | None = None,
        hard_negatives: int = 0,
    ) -> dict:
        """Trains once and measures on `dev` or `test`: from new heads or from those of `start`, which also mines."""
        model, made = self.untrained(seed, config or {}, processor or {})
        if start is not None:
            model.heads.load_state_dict(start.heads.state_dict())
        self.keep_for(made.readout_prompt)
        self.store.model = model
        sets, rows = self.sets[split], self.rows(data or {}, seed)
        args = copy.deepcopy(self.recipe.training)
        args.seed, args.learning_rate = seed, rate
        limit = self.recipe.data.max_context_tokens
        collator = DualAlignmentCollator(made, 24, limit, captions_per_batch=0, prefix_store=self.store)
        if hard_negatives:
            rows = mine_hard_negatives(model, rows, collator, hard_negatives, seed)
        set_seed(seed)
        trainer = RetrievalTrainer(model=model, args=args, train_dataset=rows, data_collator=collator)
        trainer.train()
        model.eval()
        found = scores(model, sets, collator)
        history = [line for line in trainer.state.log_history if "loss" in line]
        return {"model": model, "processor": made, "scores": found, "sets": sets, "history": history}


def ranks_of(result: dict) -> dict[str, np.ndarray]:
    """Rank of the first right answer of each context, set by set."""
    return {
        dev.name: first_right_ranks(result["scores"][dev.name], dev.ids, dev.candidate_ids) for dev in result["sets"]
    }


def image_retrieval_rate(text_scores: np.ndarray, image_scores: np.ndarray) -> float:
    """Returns the share of queries, in percent, for which an image leads the joint ranking of texts and images.

    The scores of either kind `(queries, candidates)` are standardised over all queries and candidates first, because
    the texts of a dual encoder lie nearer to one another than to its images.
    """
    best = []
    for values in (np.asarray(text_scores, dtype=np.float64), np.asarray(image_scores, dtype=np.float64)):
        best.append(((values - values.mean()) / max(values.std(), 1e-12)).max(axis=1))
    return float(100 * (best[1] > best[0]).mean())


def figures_of(result: dict) -> dict[str, float]:
    """Recalls, consistency and image rate of one run."""
    figures = {}
    for name, ranks in ranks_of(result).items():
        figures |= {f"{name}_{cut}": value for cut, value in recall_at(ranks, (1, 10)).items()}
    titles = next(dev for dev in result["sets"] if dev.name == "title_title")
    texts, images = result["scores"]["title_title"], result["scores"]["title_image"]
    right = np.asarray(titles.ids)[:, None] == np.asarray(titles.candidate_ids)
    figures["consistency"] = float(consistency_values(texts, images, right, right).mean())
    figures["image_rate"] = image_retrieval_rate(texts, images)
    return figures


def choose_rate(laboratory: Laboratory, config: dict) -> tuple[float, dict]:
    """The learning rate with the best mean recall@10 over the development sets, seed 0."""
    tried = {}
    for rate in RATES:
        figures = figures_of(laboratory.run(0, rate, "dev", config))
        tried[rate] = float(np.mean([value for name, value in figures.items() if name.endswith("_r10")]))
        print(f"  rate {rate:g}: mean dev recall@10 {tried[rate]:.2f}", flush=True)
    return max(tried, key=tried.get), {f"{rate:g}": value for rate, value in tried.items()}


def summary(runs: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over seeds."""
    spread = {name: [run[name] for run in runs] for name in runs[0]}
    return {
        name: {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}
        for name, values in spread.items()
    }


def differences(ours: str, theirs: str, hits: dict) -> dict[str, dict]:
    """Intervals of the difference of two arms by set; `hits` are 100 or 0 by arm and set, `(seeds, queries)`."""
    return {
        f"{ours} - {theirs}, {name}_r10": vars(paired_bootstrap(hits[ours][name], hits[theirs][name]))
        for name in _SETS
    }


def record(result: dict, label: str, runs: list[dict], hits: dict[str, list]) -> None:
    """Adds the figures and the hits at 10 of a run to those of its arm."""
    runs.append(figures_of(result))
    for name, ranks in ranks_of(result).items():
        hits[name].append(recall_values(ranks)["r10"])
    print(f"  {label}: {json.dumps({k: round(v, 1) for k, v in runs[-1].items()})}", flush=True)


def losses(laboratory: Laboratory, seeds: int) -> dict:
    """The table of the losses."""
    arms, hits = {}, {}
    for arm, config in LOSSES.items():
        print(f"{arm}:", flush=True)
        rate, tried = choose_rate(laboratory, config)
        runs, histories, hits[arm] = [], [], {name: [] for name in _SETS}
        for seed in range(seeds):
            result = laboratory.run(seed, rate, "test", config)
            histories.append(result["history"])
            record(result, f"seed {seed}", runs, hits[arm])
        arms[arm] = {"learning_rate": rate, "dev": tried, "runs": runs, **summary(runs), "histories": histories}
    return {
        "arms": arms,
        "difference": {**differences("both", "visual", hits), **differences("both", "textual", hits)},
    }


def hard_negatives(laboratory: Laboratory, seeds: int, rate: float) -> dict:
    """The table of a second stage at a third of the rate, in-batch candidates alone or hard negatives beside them."""
    arms = {"in-batch": 0, "hard negatives": 1}
    runs, hits = {arm: [] for arm in arms}, {arm: {name: [] for name in _SETS} for arm in arms}
    for seed in range(seeds):
        first = laboratory.run(seed, rate, "test", LOSSES["both"])["model"]
        for arm, count in arms.items():
            result = laboratory.run(seed, rate / 3, "test", LOSSES["both"], start=first, hard_negatives=count)
            record(result, f"seed {seed}, {arm}", runs[arm], hits[arm])
    found = {arm: {"runs": each, **summary(each)} for arm, each in runs.items()}
    return {"arms": found, "difference": differences("hard negatives", "in-batch", hits)}


def readout(laboratory: Laboratory, seeds: int, rate: float) -> dict:
    """The table of the readouts, on the development split; `both` at its learning rate."""
    partial = Partial("ablation_readout", [seeds, rate, laboratory.recipe.training.max_steps])
    for arm, changes in READOUT.items():
        if arm in partial.parts:
            continue
        config = {**LOSSES["both"], **changes.get("config", {})}
        runs = []
        for seed in range(seeds):
            processor, data = changes.get("processor"), changes.get("data")
            runs.append(figures_of(laboratory.run(seed, rate, "dev", config, processor, data)))
        partial.add(arm, {"learning_rate": rate, "runs": runs, **summary(runs)})
        print(f"{arm}: {json.dumps({k: round(v['mean'], 1) for k, v in summary(runs).items()})}", flush=True)
    return {"arms": partial.parts}


def heads(laboratory: Laboratory, rate: float, folder: Path) -> list[Path]:
    """One run of each arm of `losses`, seed 0, as model folders."""
    folders = []
    for arm, config in LOSSES.items():
        result = laboratory.run(0, rate, "dev", config)
        folders.append(folder / arm)
        result["model"].save_pretrained(folders[-1])
        result["processor"].save_pretrained(folders[-1])
        print(f"{folders[-1]}: {json.dumps({k: round(v, 1) for k, v in figures_of(result).items()})}", flush=True)
    return folders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=("losses", "readout", "hard_negatives", "heads"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate of all but `losses`")
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes" / "ablation.yaml")
    parser.add_argument("overrides", nargs="*", metavar="SECTION.FIELD=VALUE", help="win over the recipe")
    parser.add_argument("--output", type=Path, help="default: benchmarks/results/ablation_TABLE.json")
    args = parser.parse_intermixed_args()
    laboratory = Laboratory(load_recipe(args.recipe, args.overrides))
    if args.table == "heads":
        heads(laboratory, args.rate, args.output or ROOT / "runs" / "ablation_heads")
        laboratory.store.flush()
        return
    if args.table == "losses":
        result = losses(laboratory, args.seeds)
    elif args.table == "hard_negatives":
        result = hard_negatives(laboratory, args.seeds, args.rate)
    else:
        result = readout(laboratory, args.seeds, args.rate)
    laboratory.store.flush()
    laboratory.keep_for(laboratory.recipe.model.processor.get("readout_prompt", ""))
    split = "dev" if args.table == "readout" else "test"
    model, processor = laboratory.untrained(0, {}, {})
    collator = DualAlignmentCollator(processor, 160, prefix_store=laboratory.store)
    baseline = recalls(model, laboratory.sets[split], collator)
    result = {
        **run_record(),
        "seeds": args.seeds,
        "steps": laboratory.recipe.training.max_steps,
        "batch": laboratory.recipe.training.per_device_train_batch_size,
        "split": "test" if split == "test" else "validation",
        "sizes": {dev.name: [len(dev.contexts), len(dev.candidates)] for dev in laboratory.sets[split]},
        "untrained": baseline,
        **result,
    }
    output = args.output or RESULTS / f"ablation_{args.table}.json"
    write_json(output, result)
    Partial("ablation_readout").remove()
    print(f"written to {output}")
    if args.table == "losses":
        arms = {arm: found["histories"] for arm, found in result["arms"].items()}
        names = ["visual_matching_loss", "textual_matching_loss", "logit_scale"]
        title = f"Alignment losses, {result['steps']} steps of batch {result['batch']}, {result['seeds']} seeds"
        print(f"curves in {draw_curves(arms, output.with_suffix('.png'), names, title)}")


if __name__ == "__main__":
    main()
