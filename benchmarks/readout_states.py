"""Which hidden states a readout should see: layers at [RET], and means over the context's tokens beside them.

    python benchmarks/readout_states.py [--texts N]

Every readout is solved as UniMuR-mini's is when its training has ended: ridge regression in standardised states, then
sharpened by the matching losses. [RET] is the released model's, and the contexts are its recipe's: titles, glosses and
dialogues with their texts and images. Recall in percent on the development split, `<set>_r1`, `<set>_r10`: sets as
in `ablation.py`. A mean leaves out the first token, where attention without an aim gathers, and [RET]. `parameters`:
of the readout, in thousands.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from tqdm.auto import tqdm

from benchmarks.harness import ROOT, argument_parser, report
from modeling_unimur import UniMuRModel, UniMuRProcessor
from modeling_unimur.evaluation.metrics import first_right_ranks
from modeling_unimur.training.alignment_data import load_data
from modeling_unimur.training.collators import all_rows, render_turns
from modeling_unimur.training.dev_sets import DevSet
from modeling_unimur.training.readout_fit import ReadContexts, fit_readout, sharpen_readout
from modeling_unimur.training.recipes import load_recipe
from modeling_unimur.training.train_unimur import build

# Hidden states 0 (word vectors) to 30 (the last one, after the final norm: -1).
AT_RET = (4, 8, 12, 15, 18, 20, 22, 26, -1)
POOLED = (8, 15, 22)
READOUTS: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "last": ((-1,), ()),
    "15_22_last": ((15, 22, -1), ()),
    "8_15_20_26_last": ((8, 15, 20, 26, -1), ()),
    "nine_layers": (AT_RET, ()),
    "15_22_last_and_mean_8_15": ((15, 22, -1), (8, 15)),
    "8_15_20_26_last_and_mean_8_15_22": ((8, 15, 20, 26, -1), POOLED),
    "means_8_15_22_alone": ((), POOLED),
}
_BATCH = 64
_STEPS = 400


@torch.inference_mode()
def read_states(
    model: UniMuRModel, processor: UniMuRProcessor, contexts: list[list[str]], limit: int
) -> dict[tuple[str, int], torch.Tensor]:
    """Hidden states of every context, `(contexts, width)` each: `("ret", layer)` at [RET], `("mean", layer)`."""
    texts = [render_turns(processor, turns) for turns in contexts]
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    language_model, found = model.language_model, {}
    for start in tqdm(range(0, len(order), _BATCH), desc="Reading contexts", leave=False):
        rows = order[start : start + _BATCH]
        batch = processor.process_rendered(
            [texts[row] for row in rows], max_length=limit + processor.overhead_tokens, keep="latest"
        )
        ids, mask = batch["input_ids"], batch["attention_mask"]
        is_ret = ids == processor.ret_token_ids[0]
        vectors = language_model.get_input_embeddings()(ids.masked_fill(is_ret, 0)).clone()
        vectors[is_ret] = model.heads.ret_embedding[0].to(vectors.dtype)
        states = language_model.base_model(
            inputs_embeds=vectors,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        counted = mask.bool() & ~is_ret
        counted[torch.arange(len(rows)), mask.argmax(dim=1)] = False
        share = counted.float() / counted.sum(dim=1, keepdim=True).clamp(min=1)
        read = {("ret", layer): states[layer][is_ret].float() for layer in AT_RET}
        read |= {("mean", layer): torch.einsum("bt,btw->bw", share, states[layer].float()) for layer in POOLED}
        for name, values in read.items():
            found.setdefault(name, torch.empty(len(texts), values.shape[1]))[rows] = values
    return found


def side_by_side(states: dict, readout: tuple) -> torch.Tensor:
    """The states that a readout sees, `(contexts, width of all)`."""
    at_ret, means = readout
    return torch.cat([*(states["ret", layer] for layer in at_ret), *(states["mean", layer] for layer in means)], dim=1)


def training_rows(rows) -> tuple[list[list[str]], list[tuple[int, torch.Tensor, int, bool]]]:
    """Contexts without images, and what is right for them: place, unit vector, group, whether it is an image's."""
    kept = [row for row in all_rows(rows) if row["visual_features"] is None]
    right = []
    for place, row in enumerate(kept):
        for kind in ("text", "image"):
            target = row[f"target_{kind}_features"]
            if target is not None:
                right.append((place, F.normalize(target.float(), dim=-1), int(row["target_ids"]), kind == "image"))
    return [row["turns"] for row in kept], right


def recalls(dev: DevSet, queries: torch.Tensor) -> dict[str, float]:
    """Of one set."""
    found = (F.normalize(queries, dim=-1) @ F.normalize(dev.candidates.float(), dim=-1).T).numpy()
    ranks = first_right_ranks(found, dev.ids, dev.candidate_ids)
    return {f"{dev.name}_r{k}": float(100 * ((ranks > 0) & (ranks <= k)).mean()) for k in (1, 10)}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--texts", type=int, help="glosses and as many dialogues (default 6,000; quick: 200)")
    args = parser.parse_args()
    count = args.texts or (200 if args.quick else 6000)
    recipe = load_recipe(ROOT / "recipes" / "unimur_mini.yaml", [f"data.refit_texts_per_source={count}"])
    recipe.data.refit_texts = []
    model, processor = build(recipe)
    weights = load_file(ROOT / "hub_cards" / "unimur-mini" / "model.safetensors")
    model.heads.load_state_dict({name.removeprefix("heads."): value for name, value in weights.items()})
    model.eval()
    data, limit = load_data(model, recipe.model, recipe.data, args.seed), recipe.data.max_context_tokens
    contexts, right = training_rows(data.refit)
    if args.quick:
        right = [each for each in right if each[0] >= len(contexts) - 2 * count]
    used = sorted({place for place, *_ in right})
    row_of = {place: row for row, place in enumerate(used)}
    states = read_states(model, processor, [contexts[place] for place in used], limit)
    # Sets from titles share their contexts.
    shared = {id(dev.contexts): dev.contexts for dev in data.dev}
    dev_states = {key: read_states(model, processor, some, limit) for key, some in shared.items()}
    places = torch.tensor([row_of[place] for place, *_ in right])
    targets = torch.stack([target for _, target, _, _ in right])
    groups, kinds = (torch.tensor([each[column] for each in right]) for column in (2, 3))
    figures: dict[str, float] = {"contexts": len(used)}
    for name, readout in READOUTS.items():
        seen = side_by_side(states, readout)
        read = ReadContexts(seen[places], targets, groups, kinds)
        solved = sharpen_readout(read, fit_readout(read, args.seed), args.seed, 20 if args.quick else _STEPS)
        figures[f"{name}.parameters"] = solved.weight.numel() / 1e3
        for dev in data.dev:
            found = recalls(dev, solved(side_by_side(dev_states[id(dev.contexts)], readout)))
            figures.update({f"{name}.{key}": value for key, value in found.items()})
    notes = [f"development split; {count:,} glosses and as many dialogues beside the images' captions"]
    report("readout_states", args, figures, notes)


if __name__ == "__main__":
    main()
