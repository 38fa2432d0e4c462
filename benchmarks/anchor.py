"""What the language model adds to the encoder's own vectors of a dialogue, kind by kind, one change at a time.

    python benchmarks/anchor.py [--heads FOLDER ...] [--dialogues FILE] [--photographs FOLDER] [--vectors FOLDER]

The frozen models run once over the test dialogues; every row below is made of the same vectors. Figures are mean
reciprocal ranks in percent; `..._low` and `..._high` are the ends of a 95 % bootstrap interval over the queries. The
release is seed 0; further runs of `recipes/unimur_mini_anchor.yaml` (`--heads`, a folder for each seed) are averaged
in the rows that need no further fit. `built`, `fixed` and the kinds that were left out are of the release alone.

- Sets: `dialogue_text`, `dialogue_image`: the 100 hand-written test dialogues -> reply, -> image; `dev_...`: those of
  dev, by which the linear correction was preferred to the network; `chat`: 1,000 chats -> reply; `more`:
  `--dialogues`, JSON lines of chat messages, one reply of each dialogue among all, a kind that no fit has seen;
  `photos`: `--photographs`, caption -> photograph.
- `encoder_*`: the whole dialogue by the dual encoder's text tower; `last_*`: its last turn; `whole_last_*`: the sum.
- `fitted_*`: weights of these two, fitted like the anchored query but without the language model; `network_*`: weights
  and a network of these two.
- `readout_*`: the language model's vector alone (the paper's query); `built_*`: the anchored query without attention,
  fitted on built dialogues and glosses; `fixed_*`: on real chats too; `anchored_*`: with attention, as released;
  `ungated_*`: with its gate open.
- `*_trained_head_mrr`: among images as the trained image head alone embeds them, without the classifier of the image
  tower.
- `coherent_*`: the anchored query's texts and images as coherent replies. `*_consistency`: share of the hand-written
  test dialogues whose first text and first image are right for one and the same dialogue.
- `left_out_KIND`: held-out dialogues of a kind of the recipe, by anchored queries that were fitted on all others.
- `*_mrr_over_anchor`: `anchored` minus the best of `encoder`, `whole_last`, `fitted` and `network` there, paired;
  `*_mrr_over_encoder`: minus `encoder`.
"""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from benchmarks.harness import ROOT, argument_parser, interval_figures, report
from benchmarks.quality import load_models
from modeling_unimur.data.cache import cache_dir
from modeling_unimur.data.captioned_images import read_captioned
from modeling_unimur.data.own_chats import read_own_chats
from modeling_unimur.data.shards import read_shard, write_shard
from modeling_unimur.evaluation.compare_dialogues import (
    ComparedDialogue,
    chat_dialogues,
    own_dialogues,
    text_dialogues,
)
from modeling_unimur.evaluation.metrics import consistency_values, right_ranks
from modeling_unimur.evaluation.significance import bootstrap, paired_bootstrap
from modeling_unimur.evaluation.systems import ClipSpace
from modeling_unimur.evaluation.systems.base import KINDS, Gallery
from modeling_unimur.evaluation.systems.coherent import coherent_scores
from modeling_unimur.evaluation.tasks.dialogues import relevance_mask
from modeling_unimur.memory_index import Coherence
from modeling_unimur.modeling_unimur import UniMuRQueryAnchor
from modeling_unimur.training.alignment_data import load_data
from modeling_unimur.training.collators import DualAlignmentCollator
from modeling_unimur.training.frozen_towers import project
from modeling_unimur.training.query_anchor_fit import QuerySet, fit_query_anchor, read_queries
from modeling_unimur.training.recipes import load_recipe
from modeling_unimur.training.train_unimur import build

_RECIPE = ROOT / "recipes" / "unimur_mini_anchor.yaml"
_FIELDS = ("readout", "whole", "last", "image", "statistics")
_BATCH = 16
_MOST = 400
# Kinds of the recipe that are built, not written by people for one another.
_BUILT = ("dialogues", "glosses")


def more_dialogues(path: Path, seed: int) -> tuple[list[ComparedDialogue], Gallery]:
    """One reply of four words or more of each dialogue, after three turns or more; replies are distinct."""
    rows, _ = read_own_chats(path)
    rows = [row for row in rows if len(row["turns"]) >= 3 and len(row["target_text"].split()) >= 4]
    random.Random(seed).shuffle(rows)
    by_reply = {row["target_text"]: row for row in reversed(rows)}
    by_chat = {row["group"]: row for row in by_reply.values()}
    return text_dialogues(list(by_chat.values())[:_MOST])


def photographs(folder: Path) -> tuple[list[ComparedDialogue], Gallery]:
    """Each caption of a folder as a dialogue of one turn, with its photograph as the reply."""
    captions, _, _ = read_captioned(str(folder))
    files = list(captions)
    pairs = [(caption, number) for number, file in enumerate(files) for caption in captions[file]]
    names = [str(number) for number in range(len(files))]
    dialogues = [
        ComparedDialogue(
            f"caption {number}",
            ({"role": "user", "content": [{"type": "text", "text": caption}]},),
            None,
            (names[owner],),
        )
        for number, (caption, owner) in enumerate(pairs)
    ]
    return dialogues, Gallery((), names, list(map(str, files)), [""] * len(files))


@torch.inference_mode()
def read(space: ClipSpace, dialogues: list[ComparedDialogue], gallery: Gallery, desc: str) -> dict[str, torch.Tensor]:
    """Inputs of the anchored query by name, and the candidates `texts`, `images` and `trained_head_images`."""
    model, processor, caught = space.model, space.processor, []
    hook = model.heads.query_anchor.register_forward_pre_hook(lambda _, inputs: caught.append(inputs))
    order = sorted(range(len(dialogues)), key=lambda number: len(str(dialogues[number].messages)))
    for start in tqdm(range(0, len(order), _BATCH), desc=desc):
        some = [list(dialogues[number].messages) for number in order[start : start + _BATCH]]
        model.get_multimodal_features(**processor.process_context(some))
    hook.remove()
    back = torch.tensor(order).argsort()
    found = {
        name: torch.cat(parts)[back].float() for name, parts in zip(_FIELDS, zip(*caught, strict=True), strict=True)
    }
    candidates = space.candidates(gallery)
    found |= {"texts": candidates["text"], "images": F.normalize(candidates["image"], dim=-1)}
    if gallery.images:
        threshold = model.clip.model.visual.head.gate.threshold
        fitted = threshold.clone()
        threshold.fill_(1e6)  # the gate is open: every image is like those of the training
        found["trained_head_images"] = F.normalize(project(model.clip, candidates["pooled"]).float(), dim=-1)
        threshold.copy_(fitted)
    return found


def reciprocal_ranks(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """100 / rank of the first right candidate, for each query that has one; both are `(queries, candidates)`."""
    ranks = right_ranks(scores, right)
    return 100 / ranks[ranks > 0]


@dataclass
class Fits:
    """Anchored queries that are fitted here, over the readout of one run.

    Args:
        built: on built dialogues and glosses, without attention.
        fixed: on all kinds, without attention.
        left_out: by kind, on all the others, with attention and without it, and the held-out dialogues of that kind.
        fitted: on all kinds with a readout of zeros, weights alone.
        network: the same with a network as the correction.
    """

    built: UniMuRQueryAnchor
    fixed: UniMuRQueryAnchor
    left_out: dict[str, tuple[UniMuRQueryAnchor, UniMuRQueryAnchor, list[QuerySet]]]
    fitted: UniMuRQueryAnchor
    network: UniMuRQueryAnchor


def fit_all(seed: int) -> Fits:
    """Read the recipe's dialogues and fit, over the release's heads; `seed` is that of `network`."""
    recipe = load_recipe(_RECIPE, [])
    model, processor = build(recipe)
    data = load_data(model.eval(), recipe.model, recipe.data, recipe.training.seed)
    collator = DualAlignmentCollator(processor, recipe.data.max_caption_tokens, recipe.data.max_anchor_tokens)
    train, dev = [], []
    for name, parts in data.anchor.items():
        for sets, rows in zip((train, dev), parts, strict=True):
            sets += read_queries(model, name, rows, collator, cache_dir() / "queries")

    def fit(kinds: Iterable[str], **changes) -> UniMuRQueryAnchor:
        config = copy.deepcopy(model.config)
        for name, value in changes.items():
            setattr(config, name, value)
        anchor = UniMuRQueryAnchor(config)
        fit_query_anchor(anchor, *([one for one in part if one.name in kinds] for part in (train, dev)), seed)
        return anchor.eval()

    kinds, still = list(data.anchor), {"query_attention": 0.0}
    left_out = {}
    for kind in kinds:
        others = [name for name in kinds if name != kind]
        left_out[kind] = (fit(others), fit(others, **still), [one for one in dev if one.name == kind])
    built, fixed = fit(_BUILT, **still), fit(kinds, **still)
    train, dev = ([replace(one, readout=torch.zeros_like(one.readout)) for one in part] for part in (train, dev))
    fitted, network = (fit(kinds, query_gate=False, query_correction=kind) for kind in ("linear", "mlp"))
    return Fits(built, fixed, left_out, fitted, network)


@torch.inference_mode()
def queries_of(
    parts: dict[str, torch.Tensor], anchor: UniMuRQueryAnchor, fits: Fits | None
) -> dict[str, torch.Tensor]:
    """Queries `(dialogues, width)` of one run by the names of their figures."""
    inputs = [parts[name] for name in _FIELDS]
    readout, whole, last = inputs[:3]
    found = anchor(*inputs)
    queries = {
        "encoder": whole,
        "last": last,
        "whole_last": F.normalize(whole + last, dim=-1),
        "readout": readout,
        "anchored": found.pooler_output,
        "ungated": F.normalize(found.anchor_embeds + found.correction_embeds, dim=-1),
    }
    if fits is not None:
        queries["built"] = fits.built(*inputs).pooler_output
        queries["fixed"] = fits.fixed(*inputs).pooler_output
        inputs[0] = torch.zeros_like(readout)
        queries["fitted"] = fits.fitted(*inputs).pooler_output
        queries["network"] = fits.network(*inputs).pooler_output
    return queries


def run_values(
    name: str,
    parts: dict[str, torch.Tensor],
    queries: dict[str, torch.Tensor],
    right: dict[str, np.ndarray],
    coherence: Coherence,
) -> dict[tuple[str, str], np.ndarray]:
    """Values of one run by measure and system: reciprocal ranks, and the consistency of the test dialogues."""
    found = {}
    kinds = [kind for kind in KINDS if kind in right and right[kind].any()]
    title = {"test": "dialogue_{}", "dev": "dev_dialogue_{}"}.get(name, name)
    candidates = {kind: parts[f"{kind}s"].numpy() for kind in kinds}
    heads = {"": {}}
    if "image" in kinds:
        heads["_trained_head"] = {"image": parts["trained_head_images"].numpy()}
    for system, vectors in queries.items():
        for suffix, images in heads.items():
            offered = {**candidates, **images}
            scores = {kind: vectors.numpy() @ offered[kind].T for kind in kinds}
            lists = {system: scores}
            if len(kinds) == 2 and system == "anchored" and not suffix:
                each = [
                    coherent_scores(coherence, {k: scores[k][row] for k in kinds}, offered)
                    for row in range(len(vectors))
                ]
                lists["coherent"] = {kind: np.stack([one[kind] for one in each]) for kind in kinds}
            for row, ranked in lists.items():
                values = {kind: reciprocal_ranks(ranked[kind], right[kind]) for kind in kinds}
                for kind in kinds if not suffix else ("image",):
                    found[f"{title.format(kind)}{suffix}_mrr", row] = values[kind]
                if name == "test":
                    found[f"consistency{suffix}", row] = consistency_values(
                        *(ranked[kind] for kind in KINDS), *(right[kind] for kind in KINDS)
                    )
    return found


@torch.inference_mode()
def left_out_values(fits: Fits) -> dict[tuple[str, str], np.ndarray]:
    """Values of one run on the kinds that a fit has left out."""
    found: dict[tuple[str, str], np.ndarray] = {}
    for kind, (anchor, fixed, sets) in fits.left_out.items():
        ranks: dict[str, list[np.ndarray]] = {}
        for some in sets:
            parts = dict(zip(_FIELDS, some.inputs, strict=True))
            _, first = np.unique(some.groups.numpy(), return_index=True)
            groups = some.groups[first].numpy()
            right = some.groups.numpy()[:, None] == groups
            queries = queries_of(parts, anchor, None) | {"fixed": fixed(*some.inputs).pooler_output}
            for system, vectors in queries.items():
                ranks.setdefault(system, []).append(reciprocal_ranks((vectors @ some.targets[first].T).numpy(), right))
        found |= {(f"left_out_{kind}_mrr", system): np.concatenate(each) for system, each in ranks.items()}
    return found


def figures_of(values: dict[tuple[str, str], list[np.ndarray]]) -> dict[str, float]:
    """Means with intervals over runs and queries, and paired differences."""
    figures: dict[str, float] = {}
    measures: dict[str, dict[str, np.ndarray]] = {}
    for (measure, system), runs in values.items():
        measures.setdefault(measure, {})[system] = np.stack(runs)
    for measure, systems in measures.items():
        title = measure.removesuffix("_mrr")
        figures[f"{title}_queries"] = systems["encoder"].shape[1]
        for system, runs in systems.items():
            figures |= interval_figures(f"{system}_{measure}", bootstrap(runs))
        rivals = [system for system in ("encoder", "whole_last", "fitted", "network") if system in systems]
        best = max(rivals, key=lambda system: systems[system].mean())
        for name, rival in (("over_anchor", best), ("over_encoder", "encoder")):
            found = paired_bootstrap(systems["anchored"], systems[rival])
            figures |= interval_figures(f"{measure}_{name}", found)
    return figures


def main() -> None:
    parser = argument_parser(__doc__, "unimur-mini")
    parser.add_argument("--heads", type=Path, nargs="*", default=[], help="folders of further runs of its recipe")
    parser.add_argument("--dialogues", type=Path, help="JSON lines of chat messages, one dialogue a line")
    parser.add_argument("--photographs", type=Path, help="a folder with captions.tsv")
    parser.add_argument("--vectors", type=Path, help="folder that keeps what the frozen models gave, for further runs")
    args = parser.parse_args()
    models, processor = load_models(args.model, args.heads)
    sets = {"dev": own_dialogues("dev"), "test": own_dialogues("test")}
    if not args.quick:
        sets["chat"] = chat_dialogues("test")
        if args.dialogues is not None:
            sets["more"] = more_dialogues(args.dialogues, args.seed)
        if args.photographs is not None:
            sets["photos"] = photographs(args.photographs)
    values: dict[tuple[str, str], list[np.ndarray]] = {}
    fits = None if args.quick else fit_all(args.seed)
    for key, found in ({} if fits is None else left_out_values(fits)).items():
        values.setdefault(key, []).append(found)
    for number, model in enumerate(models):
        space = ClipSpace(model, processor)
        for name, (dialogues, gallery) in sets.items():
            if args.quick:
                dialogues = dialogues[:10]
            kept = None if args.vectors is None else read_shard(args.vectors / f"{number}_{name}.safetensors", dict)
            parts = kept or read(space, dialogues, gallery, f"Reading {name}")
            if kept is None and args.vectors is not None:
                write_shard(args.vectors, f"{number}_{name}", parts)
            right = {kind: relevance_mask(dialogues, gallery, kind) for kind in gallery.kinds()}
            queries = queries_of(parts, model.heads.query_anchor, fits)
            if number:  # fitted over the release's readout
                queries = {key: value for key, value in queries.items() if key not in ("built", "fixed")}
            for key, found in run_values(name, parts, queries, right, Coherence.of(model.config)).items():
                values.setdefault(key, []).append(found)
    figures = {"seeds": len(models), **figures_of(values)}
    report("anchor", args, figures, notes=["the language model in float32; test dialogues of the package"])


if __name__ == "__main__":
    main()
