"""What the language model adds to the encoder's own vectors of a dialogue, kind by kind.

    python benchmarks/anchor.py [--heads FILE ...] [--dialogues FILE] [--vectors FOLDER]

The frozen models run once over the test dialogues; every row below is made of the same vectors. Figures are mean
reciprocal ranks in percent; `..._low` and `..._high` are the ends of a 95 % bootstrap interval over the queries, and
further heads (`--heads`, one per seed) are averaged.

- Sets: `dialogue_text`, `dialogue_image`: the 100 hand-written test dialogues -> reply, -> image; `dev_...`: those of
  dev, by which the linear correction was preferred to the network; `chat`: 1,000 chats -> reply; `more`:
  `--dialogues`, JSON lines of chat messages, one reply of each dialogue among all, a kind that no fit has seen.
- `encoder_*`: the whole dialogue by the dual encoder's text tower; `last_*`: its last turn; `whole_last_*`: the sum.
- `fitted_*`: weights and a network of these two, fitted like the anchored query but without the language model.
- `readout_*`: the language model's vector alone (the paper's query); `anchored_*`: the anchored query; `ungated_*`:
  with its gate open.
- `*_mrr_over_anchor`: `anchored` minus the best of `encoder`, `whole_last` and `fitted` on that set, paired.
"""

from __future__ import annotations

import copy
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from tqdm.auto import tqdm

from benchmarks.harness import ROOT, argument_parser, report
from modeling_unimur import UniMuRModel, UniMuRProcessor
from modeling_unimur.data.cache import cache_dir
from modeling_unimur.data.own_chats import read_own_chats
from modeling_unimur.data.shards import read_shard, write_shard
from modeling_unimur.evaluation.compare_dialogues import ComparedDialogue, chat_dialogues, gallery_of, own_dialogues
from modeling_unimur.evaluation.significance import bootstrap, paired_bootstrap
from modeling_unimur.evaluation.systems import ClipSpace
from modeling_unimur.evaluation.systems.base import Gallery
from modeling_unimur.modeling_unimur import UniMuRQueryAnchor
from modeling_unimur.training.alignment_data import load_data
from modeling_unimur.training.collators import DualAlignmentCollator
from modeling_unimur.training.query_anchor_fit import QuerySet, fit_query_anchor, read_queries
from modeling_unimur.training.recipes import load_recipe
from modeling_unimur.training.train_unimur import build

_RECIPE = ROOT / "recipes" / "unimur_mini_anchor.yaml"
_FIELDS = ("readout", "whole", "last", "image", "statistics")
_BATCH = 16
_MOST = 400


def more_dialogues(path: Path, seed: int) -> tuple[list[ComparedDialogue], Gallery]:
    """One reply of four words or more of each dialogue, after three turns or more; replies are distinct."""
    rows, _ = read_own_chats(path)
    rows = [row for row in rows if len(row["turns"]) >= 3 and len(row["target_text"].split()) >= 4]
    random.Random(seed).shuffle(rows)
    by_reply = {row["target_text"]: row for row in reversed(rows)}
    by_chat = {row["group"]: row for row in by_reply.values()}
    chosen = list(by_chat.values())[:_MOST]
    dialogues = [
        ComparedDialogue(
            row["dialogue_id"],
            tuple({**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in row["turns"]),
            row["target_text"],
            (),
        )
        for row in chosen
    ]
    return dialogues, gallery_of({"image_id": [], "image": [], "title": [], "tags": []}, dialogues)


@torch.inference_mode()
def read(space: ClipSpace, dialogues: list[ComparedDialogue], gallery: Gallery, desc: str) -> dict[str, torch.Tensor]:
    """Inputs of the anchored query by name, and the candidates `texts` and `images`."""
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
    return {**found, "texts": candidates["text"], "images": F.normalize(candidates["image"], dim=-1)}


def reciprocal_ranks(queries: torch.Tensor, candidates: torch.Tensor, right: list[list[int]]) -> np.ndarray:
    """100 / rank of the first right candidate, for each query that has one; ties count against it."""
    scores, found = (queries @ candidates.T).numpy(), []
    for row, numbers in zip(scores, right, strict=True):
        if numbers:
            wrong = np.delete(row, numbers)
            found.append(100 / (1 + (wrong >= row[numbers].max()).sum()))
    return np.array(found)


def without_language_model(seed: int) -> UniMuRQueryAnchor:
    """The anchored query fitted on the recipe's dialogues with a readout of zeros."""
    recipe = load_recipe(_RECIPE, [])
    model, processor = build(recipe)
    data = load_data(model.eval(), recipe.model, recipe.data, recipe.training.seed)
    collator = DualAlignmentCollator(processor, recipe.data.max_caption_tokens, recipe.data.max_anchor_tokens)
    train, dev = [], []
    for name, parts in data.anchor.items():
        for sets, rows in zip((train, dev), parts, strict=True):
            for some in read_queries(model, name, rows, collator, cache_dir() / "queries"):
                inputs = (torch.zeros_like(some.readout), *some.inputs[1:])
                sets.append(QuerySet(name, *inputs, some.targets, some.groups, some.kind))
    anchor = model.heads.query_anchor
    fit_query_anchor(anchor, train, dev, seed)
    anchor.gate = None  # there is nothing to be held back
    return anchor.eval()


@torch.inference_mode()
def queries_of(parts: dict[str, torch.Tensor], anchors: list[UniMuRQueryAnchor], fitted) -> dict[str, list]:
    """Queries by the names of their figures, one per run."""
    inputs = [parts[name] for name in _FIELDS]
    readout, whole, last = inputs[:3]
    ungated = []
    for anchor in anchors:
        found = anchor(*inputs)
        ungated.append(F.normalize(found.anchor_embeds + found.correction_embeds, dim=-1))
    queries = {
        "encoder": [whole],
        "last": [last],
        "whole_last": [F.normalize(whole + last, dim=-1)],
        "readout": [readout],
        "anchored": [anchor(*inputs).pooler_output for anchor in anchors],
        "ungated": ungated,
    }
    if fitted is not None:
        queries["fitted"] = [fitted(torch.zeros_like(readout), *inputs[1:]).pooler_output]
    return queries


def set_figures(name: str, ranks: dict[str, np.ndarray]) -> dict[str, float]:
    """Figures of one set from reciprocal ranks `(runs, queries)` by system."""
    figures = {f"{name}_queries": ranks["encoder"].shape[1]}
    for system, values in ranks.items():
        for end, value in vars(bootstrap(values)).items():
            figures[f"{system}_{name}_mrr" if end == "mean" else f"{system}_{name}_mrr_{end}"] = value
    rivals = [system for system in ("encoder", "whole_last", "fitted") if system in ranks]
    best = max(rivals, key=lambda system: ranks[system].mean())
    for title, rival in (("over_anchor", best), ("over_encoder", "encoder")):
        for end, value in vars(paired_bootstrap(ranks["anchored"], ranks[rival])).items():
            figures[f"{name}_mrr_{title}" if end == "mean" else f"{name}_mrr_{title}_{end}"] = value
    return figures


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--model", type=Path, default=cache_dir() / "models" / "unimur-mini", help="a full release")
    parser.add_argument("--heads", type=Path, nargs="*", default=[], help="model.safetensors of further seeds")
    parser.add_argument("--dialogues", type=Path, help="JSON lines of chat messages, one dialogue a line")
    parser.add_argument("--vectors", type=Path, help="folder that keeps what the frozen models gave, for further runs")
    args = parser.parse_args()
    model, processor = UniMuRModel.from_pretrained(args.model).eval(), UniMuRProcessor.from_pretrained(args.model)
    space, anchors = ClipSpace(model, processor), [model.heads.query_anchor]
    for path in args.heads:
        anchors.append(copy.deepcopy(anchors[0]))
        tensors = load_file(path)
        start = "heads.query_anchor."
        anchors[-1].load_state_dict({k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)})
    fitted = None if args.quick else without_language_model(args.seed)
    sets = {"dev": own_dialogues("dev"), "test": own_dialogues("test")}
    if not args.quick:
        sets["chat"] = chat_dialogues("test")
        if args.dialogues is not None:
            sets["more"] = more_dialogues(args.dialogues, args.seed)
    ranks: dict[str, dict[str, list[np.ndarray]]] = {}
    for name, (dialogues, gallery) in sets.items():
        if args.quick:
            dialogues = dialogues[:10]
        kept = None if args.vectors is None else read_shard(args.vectors / f"{name}.safetensors", dict)
        parts = kept or read(space, dialogues, gallery, f"Reading {name}")
        if kept is None and args.vectors is not None:
            write_shard(args.vectors, name, parts)
        texts = {text: number for number, text in enumerate(gallery.texts)}
        images = {image: number for number, image in enumerate(gallery.image_ids)}
        right = {
            "text": [[texts[d.right_text]] if d.right_text is not None else [] for d in dialogues],
            "image": [[images[image] for image in d.right_images] for d in dialogues],
        }
        for system, runs in queries_of(parts, anchors, fitted).items():
            for kind in gallery.kinds():
                title = {"test": f"dialogue_{kind}", "dev": f"dev_dialogue_{kind}"}.get(name, name)
                found = np.stack([reciprocal_ranks(run, parts[f"{kind}s"], right[kind]) for run in runs])
                ranks.setdefault(title, {}).setdefault(system, []).append(found)
    figures: dict[str, float] = {"seeds": len(anchors)}
    for title, systems in ranks.items():
        figures.update(set_figures(title, {name: np.concatenate(found, axis=1) for name, found in systems.items()}))
    report("anchor", args, figures, notes=["the language model in float32; test dialogues of the package"])


if __name__ == "__main__":
    main()
