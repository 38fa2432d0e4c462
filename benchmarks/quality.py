"""What UniMuR-mini and its small CLIP find on the test split, next to what they are compared with.

    python benchmarks/quality.py [--heads FOLDER ...] [--parts titles dialogues captions] [--name NAME] [--quick]

Titles, glosses and hand-written dialogues of images that no training saw. UniMuR-mini is the release (seed 0) and
the heads of further runs of the same recipe; recalls are means over them, in percent, intervals 95 % by the bootstrap
over queries.

- `clip_title_image_*`: a title by the small CLIP's text tower -> its image among all test images.
- `unimur_title_image_*`, `unimur_over_clip_title_image_r10`; `distillation_fidelity`: title -> title, R@1, which
  measures copying of the target.
- `gloss_title_*`: the WordNet gloss of an image's title, which it does not contain -> that title among the titles of
  all such images; `gloss_image_*`: -> the image among all; `clip_gloss_...`: by the small CLIP's text tower.
- `dialogue_image_*`, `dialogue_text_*` and `clip_whole_...`, `clip_last_...`, `clip_linear_...`, `bm25_...`: the 100
  hand-written test dialogues -> image, -> reply; `_short` up to two turns, `_long` from three on.
- `coherent_image_*`, `coherent_text_*`: UniMuR-mini's coherent replies; `clip_whole_coherent_...`: those of the small
  CLIP's text tower. `consistency`, `consistency_plain`: share of dialogues whose first text and first image are right
  for one dialogue, in coherent replies and in two independent rankings; `clip_whole_consistency...`: of that tower.
- `..._low`, `..._high`: ends of the interval; `dialogue_image_r10_over_clip_whole...`: the paired difference.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from benchmarks.harness import ROOT, argument_parser, interval_figures, report
from modeling_unimur import UniMuRModel, UniMuRProcessor
from modeling_unimur.cli.compared_systems import training_text
from modeling_unimur.data.captioned_images import load_captioned_images
from modeling_unimur.evaluation.compare_dialogues import own_dialogues
from modeling_unimur.evaluation.metrics import CUTOFFS, first_right_ranks, recall_at, recall_values
from modeling_unimur.evaluation.significance import bootstrap, paired_bootstrap
from modeling_unimur.evaluation.systems import BM25, ClipSpace, ClipText, ClipTextLinear, CoherentReply, UniMuR
from modeling_unimur.evaluation.tasks.dialogues import LONG, compare_systems
from modeling_unimur.training.collators import DualAlignmentCollator
from modeling_unimur.training.context_rows import TextContext, text_rows
from modeling_unimur.training.dev_sets import DevSet, image_sets, scores, text_sets
from modeling_unimur.training.frozen_towers import project
from modeling_unimur.training.pairs import load_pairs
from modeling_unimur.training.readout_fit import fit_ridge
from modeling_unimur.training.recipes import load_recipe
from unimur_mini.dialogues import load_glosses

PARTS = ("titles", "dialogues", "captions")
_CAPTIONS = 20
_SOURCES = ("openclipart", "openmoji", "stamps")


def test_sets(space: ClipSpace) -> list[DevSet]:
    """Titles, and glosses of titles, of the test images."""
    recipe = load_recipe(ROOT / "recipes" / "unimur_mini.yaml")
    processor, clip = space.processor, space.model.clip
    pairs = load_pairs(
        clip, processor.image_processor, processor.target_tokenizer, list(_SOURCES), recipe.data.feature_options()
    )["test"]
    with torch.no_grad():
        images = project(clip, pairs.pooled.float())
    sets = image_sets(pairs, images)
    shown = [row for row in load_glosses()["test"] if row["target_picture"]]
    ids = {row["image"]: row["image_id"] for row in load_captioned_images(list(_SOURCES))}
    contexts = [TextContext([row["gloss"]], row["title"], row["target_picture"]) for row in shown]
    rows = text_rows(contexts, space.texts, pairs, ids, lambda numbers: images[numbers])
    return [*sets, *text_sets(rows, "gloss_title", "gloss_image", sets[0])]


def hits_by_clip(space: ClipSpace, dev: DevSet) -> np.ndarray:
    """Ranks by the small CLIP's own text tower."""
    found = space.texts(["\n".join(turns) for turns in dev.contexts]) @ F.normalize(dev.candidates.float(), dim=-1).T
    return first_right_ranks(found.numpy(), dev.ids, dev.candidate_ids)


def recall_figures(name: str, hits: dict[str, np.ndarray]) -> dict[str, float]:
    """Recalls with intervals from `metrics.recall_values`, each `(queries,)` or `(runs, queries)`."""
    figures: dict[str, float] = {}
    for cutoff, values in hits.items():
        figures.update(interval_figures(f"{name}_{cutoff}", bootstrap(values)))
    return figures


def title_figures(space: ClipSpace, models: list[UniMuRModel], sets: list[DevSet]) -> dict[str, float]:
    """Everything that needs no dialogue."""
    figures = {}
    runs = [scores(model, sets, DualAlignmentCollator(space.processor, 256)) for model in models]
    for dev in sets:
        ours = np.stack([first_right_ranks(run[dev.name], dev.ids, dev.candidate_ids) for run in runs])
        theirs = hits_by_clip(space, dev)
        if dev.name == "title_title":
            figures.update(interval_figures("distillation_fidelity", bootstrap(100.0 * (ours == 1))))
            continue
        name = dev.name if dev.name.startswith("gloss") else f"unimur_{dev.name}"
        figures.update(recall_figures(name, recall_values(ours)))
        figures.update(recall_figures(f"clip_{dev.name}", recall_values(theirs)))
        figures[f"{dev.name}_queries"], figures[f"{dev.name}_candidates"] = len(dev.contexts), len(dev.candidates)
    title = np.array([figures["unimur_title_image_r10"], figures["clip_title_image_r10"]])
    figures["unimur_over_clip_title_image_r10"] = float(title[0] / title[1])
    if len(models) > 1:
        dev = sets[0]
        each = [first_right_ranks(run[dev.name], dev.ids, dev.candidate_ids) for run in runs]
        recalls = [recall_at(ranks)["r10"] for ranks in each]
        figures["unimur_title_image_r10_std_over_seeds"] = float(np.std(recalls, ddof=1))
    return figures


def dialogue_systems(space: ClipSpace, models: list[UniMuRModel], texts: int) -> dict[str, list]:
    """Systems by the names of their figures; UniMuR once a run."""
    linear = ClipTextLinear(space, fit_ridge)
    linear.fit(*training_text(texts, seed=0))
    ours = []
    for number, model in enumerate(models):
        own = copy.copy(space)
        own.model = model
        ours.append(UniMuR(own, name=f"UniMuR, run {number}"))
    whole = ClipText(space, last_turn=False)
    return {
        "dialogue": ours,
        "coherent": [CoherentReply(system) for system in ours],
        "clip_whole": [whole],
        "clip_whole_coherent": [CoherentReply(whole)],
        "clip_last": [ClipText(space, last_turn=True)],
        "clip_linear": [linear],
        "bm25": [BM25()],
    }


def dialogue_figures(space: ClipSpace, models: list[UniMuRModel], texts: int) -> dict[str, float]:
    """The hand-written dialogues."""
    dialogues, gallery = own_dialogues("test")
    systems = dialogue_systems(space, models, texts)
    found = compare_systems(dialogues, gallery, list(itertools.chain(*systems.values())), timed=False)
    long = np.array([len(dialogue.messages) >= LONG for dialogue in dialogues])
    figures: dict[str, float] = {"dialogues_short": int((~long).sum()), "dialogues_long": int(long.sum())}

    def values(name: str, measure: str) -> np.ndarray:
        """Of every run `(runs, dialogues)`."""
        return np.stack([found.systems[system.name].values[measure] for system in systems[name]])

    parts = (("", long | ~long, CUTOFFS), ("_short", ~long, (1, 10)), ("_long", long, (1, 10)))
    for name, kind in itertools.product(systems, ("image", "text")):
        for part, chosen, cutoffs in parts:
            hits = {f"r{k}": values(name, f"{kind} r{k}")[:, chosen] for k in cutoffs}
            figures.update(recall_figures(f"{name}_{kind}{part}", hits))
    for name, title in (("", "dialogue"), ("clip_whole_", "clip_whole")):
        figures.update(interval_figures(f"{name}consistency_plain", bootstrap(values(title, "consistency"))))
        figures.update(interval_figures(f"{name}consistency", bootstrap(values(f"{name}coherent", "consistency"))))
    for kind, k in itertools.product(("image", "text"), (1, 10)):
        for part, chosen, _ in parts:
            ours, theirs = (values(name, f"{kind} r{k}")[:, chosen] for name in ("dialogue", "clip_whole"))
            title = f"dialogue_{kind}_r{k}_over_clip_whole{part}"
            figures.update(interval_figures(title, paired_bootstrap(ours, theirs)))
    return figures


@torch.inference_mode()
def captions(model: UniMuRModel, processor: UniMuRProcessor, count: int) -> list[str]:
    """What `generate` says of unseen images, evenly spaced, as it comes: title and tags -> text."""
    _, gallery = own_dialogues("test")
    lines = []
    for number in range(count):
        row = number * len(gallery.images) // count
        prompt = processor.process_caption_prompt(gallery.images[row])
        said = model.generate(**prompt, max_new_tokens=16, do_sample=False)
        text = processor.tokenizer.decode(said[0], skip_special_tokens=True)
        lines.append(f"{gallery.image_words[row]!r} -> {' '.join(text.split())!r}")
    return lines


def load_models(release: Path, heads: list[Path]) -> tuple[list[UniMuRModel], UniMuRProcessor]:
    """The release, and one model for each further run's heads, on the same backbones."""
    model, processor = UniMuRModel.from_pretrained(release).eval(), UniMuRProcessor.from_pretrained(release)
    models = [model]
    for folder in heads:
        other = copy.copy(model)
        other._modules = dict(model._modules)
        other.heads = copy.deepcopy(model.heads)
        tensors = load_file(folder / "model.safetensors")
        other.heads.load_state_dict({key.removeprefix("heads."): value for key, value in tensors.items()})
        models.append(other)
    return models, processor


def main() -> None:
    parser = argument_parser(__doc__, "unimur-mini")
    parser.add_argument("--heads", type=Path, nargs="*", default=[], help="folders of further runs of its recipe")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what is measured (default: all)")
    parser.add_argument("--name", default="quality", help="of the file of results")
    parser.add_argument("--linear-texts", type=int, default=10_000, help="what the linear map is fitted on")
    args: argparse.Namespace = parser.parse_args()
    models, processor = load_models(args.model, args.heads)
    space = ClipSpace(models[0], processor)
    parts = ["titles"] if args.quick else args.parts
    figures: dict[str, float] = {"seeds": len(models)}
    said = []
    if "titles" in parts:
        sets = test_sets(space)
        figures.update(title_figures(space, models, [_first(dev, 40) for dev in sets] if args.quick else sets))
    if "dialogues" in parts:
        figures.update(dialogue_figures(space, models, args.linear_texts))
    if "captions" in parts:
        said = ["title, tags -> generate():", *captions(models[0], processor, _CAPTIONS)]
    report(args.name, args, figures, notes=["test split; UniMuR-mini's language model in float32", *said])


def _first(dev: DevSet, count: int) -> DevSet:
    return DevSet(dev.name, dev.contexts[:count], dev.ids[:count], dev.kind, dev.candidates, dev.candidate_ids)


if __name__ == "__main__":
    main()
