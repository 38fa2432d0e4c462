"""What the small dual encoder finds among photographs, which it was not trained on, and among clip art, which it was.

    python benchmarks/photographs.py FOLDER RUN ...

FOLDER holds photographs and `captions.tsv` (file, tab, caption; several lines a file); RUN are output folders of
`recipes/clip_lite2_minilm.yaml`, one per seed. Recall in percent, means over the runs; `..._low` and `..._high` are
the ends of a 95 % bootstrap interval over the queries.

- `photos_r1`, `_r5`, `_r10`: caption -> photograph among all of the folder.
- `clip_title_image_r1`, ...: title -> image on the test split of the clip art.
- `..._classifier_alone`: the gate closed, so that only the classifier of the image tower speaks (ConSE).
- `..._trained_alone`: the gate open, as heads without a gate are.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoTokenizer

from benchmarks.harness import ROOT, argument_parser, report
from benchmarks.quality import recall_figures
from modeling_unimur import OpenCLIPModel
from modeling_unimur.data.captioned_images import read_captioned
from modeling_unimur.evaluation.metrics import first_right_ranks
from modeling_unimur.training.frozen_features import FrozenImages
from modeling_unimur.training.frozen_towers import frozen_towers, project
from modeling_unimur.training.pairs import ImagePairs, load_pairs
from modeling_unimur.training.recipes import load_recipe
from unimur_mini.dual_encoder.train import title_ranks

# The threshold on the distance to the training images; `None` is the fitted one.
_GATES = {"": None, "_classifier_alone": 1e-6, "_trained_alone": 1e6}


@torch.inference_mode()
def photograph_ranks(
    model: OpenCLIPModel, pooled: torch.Tensor, texts: torch.Tensor, owners: np.ndarray
) -> np.ndarray:
    """Rank `(captions,)` of the photograph, by its number in `owners`, that each caption belongs to. `pooled`
    `(photographs, pooled_width)` and `texts` `(captions, width)` are what the frozen towers give."""
    scores = F.normalize(texts, dim=-1) @ F.normalize(project(model, pooled), dim=-1).T
    return first_right_ranks(scores.numpy(), owners, np.arange(len(pooled)))


def ranks_by_gate(
    model: OpenCLIPModel, photographs: tuple[torch.Tensor, torch.Tensor, np.ndarray], titles: ImagePairs
) -> dict[str, np.ndarray]:
    """Ranks by the names of the figures, with the gate as fitted, closed and open."""
    threshold, found = model.model.visual.head.gate.threshold, {}
    fitted = threshold.clone()
    for name, value in _GATES.items():
        threshold.copy_(fitted if value is None else torch.full_like(fitted, value))
        found[f"photos{name}"] = photograph_ranks(model, *photographs)
        with torch.inference_mode():
            found[f"clip_title_image{name}"] = title_ranks(model, titles)["title_image"]
    threshold.copy_(fitted)
    return found


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("photographs", type=Path, help="a folder with captions.tsv")
    parser.add_argument("runs", type=Path, nargs="+", help="output folders of the recipe, one per seed")
    args = parser.parse_args()
    models = [OpenCLIPModel.from_pretrained(run).eval() for run in args.runs]
    processors = AutoImageProcessor.from_pretrained(args.runs[0]), AutoTokenizer.from_pretrained(args.runs[0])
    recipe = load_recipe(ROOT / "recipes" / "clip_lite2_minilm.yaml")
    titles = load_pairs(models[0], *processors, recipe.data.sources, recipe.data.feature_options())["test"]
    captions, _, _ = read_captioned(str(args.photographs))
    files = list(captions)
    pairs = [(caption, number) for number, file in enumerate(files) for caption in captions[file]]
    if args.quick:
        files, pairs = files[:20], [pair for pair in pairs if pair[1] < 20]
    towers = frozen_towers(models[0], processors[1])
    pooled = FrozenImages(towers.image_tower, towers.encode_images, processors[0]).features(files)
    if len(pooled.kept) < len(files):
        raise ValueError(f"{len(pooled.skipped)} photographs cannot be read; the first: {pooled.skipped[0][1]}")
    with torch.inference_mode():
        texts = torch.cat([towers.encode_texts([caption]) for caption, _ in pairs])
    photographs = pooled.rows.tensor(), texts, np.array([number for _, number in pairs])
    ranks = [ranks_by_gate(model, photographs, titles) for model in models]
    figures = {"seeds": len(models), "photos_images": len(files), "photos_captions": len(pairs)}
    notes = []
    for name in ranks[0]:
        figures |= recall_figures(name, np.stack([run[name] for run in ranks]))
        each = [", ".join(f"{100 * (run[name] <= k).mean():.1f}" for run in ranks) for k in (1, 10)]
        notes.append(f"{name}: recall at 1 of each run {each[0]}; at 10 {each[1]}")
    report("photographs", args, figures, notes)


if __name__ == "__main__":
    main()
