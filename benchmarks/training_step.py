"""A step of dual alignment training, next to FROMAGe's step written out plainly and to a bare forward.

    python benchmarks/training_step.py [--quick]
    python benchmarks/training_step.py --growth

One run, float32, one batch of real captions; the same tokens for every variant; a step is zero_grad, forward,
backward, clipping and AdamW. Peak memory is what a step takes beyond the loaded weights, in a process of its own.

- `retrieval_step_over_forward`: our step over a forward of the language model's decoder without gradient.
- `retrieval_speedup_over_plain`: FROMAGe's step, its targets cached too, over ours.
- `retrieval_speedup_with_cached_targets`: FROMAGe's step that runs the dual encoder each time, over ours.
- `caption_speedup_over_plain`: FROMAGe's caption step over ours.
- `kept_speedup_over_plain`: FROMAGe's step, its targets cached, over ours with the frozen prefixes kept as well.
- `bf16_speedup`: our step over the same with the frozen language model in bfloat16; `bf16_loss_error` and
  `bf16_gradient_error` are what that changes, relative.
- `loss_error`, `gradient_error` (and `caption_...`): ours against the same losses with the whole sequence in the
  graph, relative; the gradient's is the largest of all trained tensors, each relative to the tensor's norm.
- `..._float64`: the same errors with everything in float64: what remains of them is rounding.
- `weight_read_seconds`: a forward of one token, which reads all weights once; `ret_position_seconds`: of one token of
  each row. The [RET] pass costs the latter twice, forward and backward (frozen weights have no gradient of their own),
  so that at small batches it waits for memory, not for arithmetic.
- `retrieval_step_bound_over_forward`: what follows for our step at best, over the forward: the tokens without their
  padding, and the [RET] pass.
- `..._batch<B>`: the same at the other batch size: 32 and 8 rows, with `--quick` 8 and 32.
- `..._batch<B>_tokens<T>`: the same at other sizes (`--growth`); a plain step that would not fit into memory is left
  out. A quick run measures memory with `--growth` only.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import gc
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil
import torch

from benchmarks.fromage_step import FromageStep, right_padded
from benchmarks.harness import (
    LONG_ROUNDS,
    MIN_ROUNDS,
    Timings,
    alternate,
    argument_parser,
    in_fresh_process,
    peak_mib,
    report,
    reset_peak,
)
from benchmarks.training_inputs import (
    TrainingBatch,
    draw_pairs,
    encode_targets,
    make_batch,
    make_long_batch,
    read_pairs,
)
from modeling_unimur import UniMuRModel, UniMuRProcessor
from modeling_unimur.training.prefix_store import prefix_states

VARIANTS = (
    "forward",
    "retrieval_step",
    "plain_step",
    "plain_step_computing_targets",
    "caption_step",
    "plain_caption_step",
    "retrieval_step_kept",
    "retrieval_step_bf16",
)
GROWTH_VARIANTS = VARIANTS[:3]
# What the bound is made of, and what is measured at the other batch size.
# In a quick run the plain step would take too long there.
BOUND_VARIANTS = ("weight_read", "ret_position")
OTHER_VARIANTS, QUICK_OTHER_VARIANTS = GROWTH_VARIANTS, GROWTH_VARIANTS[:2]
BATCH, OTHER_BATCH = 32, 8
GROWTH = ((32, 24), (32, 128), (32, 512), (128, 24), (512, 24))
QUICK_BATCH, QUICK_OTHER_BATCH, QUICK_GROWTH = 8, 32, ((8, 32),)
# Share of the free memory that a step may be expected to take.
_ROOM = 0.6


def _steps(model: UniMuRModel, batch: TrainingBatch, names: tuple[str, ...]) -> dict[str, Callable[[], object]]:
    """The named variants as functions without arguments. Learning rates are 0: each round does the same work."""
    steps: dict[str, Callable[[], object]] = {}
    if "forward" in names:
        steps["forward"] = _bare_forward(model, **batch.contexts)
    for name, rows in (("weight_read", 1), ("ret_position", len(batch.contexts["input_ids"]))):
        if name in names:
            last = {key: value[:rows, -1:] for key, value in batch.contexts.items()}
            steps[name] = _bare_forward(model, **last)
    trained = [p for p in model.parameters() if p.requires_grad]
    if "retrieval_step" in names:
        steps["retrieval_step"] = _step(trained, lambda: _retrieval_loss(model, batch))
    if "retrieval_step_kept" in names:
        states = prefix_states(model, batch.contexts["input_ids"], batch.contexts["attention_mask"])
        steps["retrieval_step_kept"] = _step(trained, lambda: _retrieval_loss(model, batch, states))
    if "retrieval_step_bf16" in names:
        half = _in_bf16(model)
        weights = [p for p in half.parameters() if p.requires_grad]
        steps["retrieval_step_bf16"] = _step(weights, lambda: _retrieval_loss(half, batch))
    if "caption_step" in names:
        steps["caption_step"] = _step(trained, lambda: _caption_loss(model, batch))
    if any(name.startswith("plain") for name in names):
        plain = FromageStep(model)
        mask, ids = right_padded(batch.contexts["attention_mask"], batch.contexts["input_ids"])
        makers = {
            "plain_step": lambda: plain.retrieval_loss(ids, mask, batch.image_features, batch.text_features),
            "plain_step_computing_targets": lambda: plain.retrieval_loss(
                ids, mask, *encode_targets(model, batch.towers)
            ),
            "plain_caption_step": lambda: plain.caption_loss(*_plain_captions(batch)),
        }
        for name in names:
            if name in makers:
                steps[name] = _step(plain.parameters(), makers[name], plain.keep_ret_gradient)
    return {name: steps[name] for name in names}


def _bare_forward(model: UniMuRModel, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Callable[[], object]:
    ids, mask = input_ids, attention_mask
    table, decoder = model.get_input_embeddings(), model.language_model.base_model
    with torch.no_grad():
        embeds = table(ids.clamp(max=table.num_embeddings - 1))
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)

    @torch.no_grad()
    def run():
        decoder(inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False)

    return run


def _step(parameters, loss: Callable[[], torch.Tensor], after_backward: Callable[[], None] | None = None):
    optimizer = torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.95), weight_decay=0.0)

    def run():
        optimizer.zero_grad()
        loss().backward()
        if after_backward is not None:
            after_backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return run


def _in_bf16(model: UniMuRModel) -> UniMuRModel:
    """A copy with the frozen language model in bfloat16; what trains stays float32."""
    half = copy.deepcopy(model)
    half.language_model.to(torch.bfloat16)
    return half


def _retrieval_loss(model: UniMuRModel, batch: TrainingBatch, states: torch.Tensor | None = None) -> torch.Tensor:
    targets = {"target_image_features": batch.image_features, "target_text_features": batch.text_features}
    return model(**batch.contexts, **targets, prefix_states=states).loss


def _caption_loss(model: UniMuRModel, batch: TrainingBatch) -> torch.Tensor:
    return model(**batch.captions, caption_visual_features=batch.visual_features).loss


def _plain_captions(batch: TrainingBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    captions = batch.captions
    _, ids, labels = right_padded(
        captions["caption_attention_mask"], captions["caption_input_ids"], captions["caption_labels"]
    )
    return ids, labels, batch.visual_features


# -- equality ---------------------------------------------------------------------------------------------------------
def _errors(model: UniMuRModel, batch: TrainingBatch) -> dict[str, float]:
    """Ours against the whole sequence in the graph: of the losses, and of the gradients of all trained tensors."""
    plain = FromageStep(model)
    mask, ids = right_padded(batch.contexts["attention_mask"], batch.contexts["input_ids"])
    pairs = {
        "": (
            _retrieval_loss(model, batch),
            plain.retrieval_loss(ids, mask, batch.image_features, batch.text_features, next_token_loss=False),
        ),
        "caption_": (
            _caption_loss(model, batch),
            plain.caption_loss(*_plain_captions(batch), vocabulary=model.get_output_embeddings().weight.shape[0]),
        ),
    }
    figures = {}
    for prefix, (ours, theirs) in pairs.items():
        figures[f"{prefix}loss_error"] = float(((ours - theirs) / theirs).abs().detach())
        model.zero_grad()
        for parameter in plain.parameters():
            parameter.grad = None
        ours.backward()
        theirs.backward()
        expected = plain.gradients()
        found = {name: p.grad for name, p in model.heads.named_parameters() if p.grad is not None}
        if prefix and not found.pop("ret_embedding").any():
            expected.pop("ret_embedding")  # captions hold none: zero in ours, where the plain table has no such mask
        if set(found) != set(expected):
            raise RuntimeError(f"Gradients of {sorted(found)} stand against those of {sorted(expected)}.")
        figures[f"{prefix}gradient_error"] = max(
            float((found[name] - expected[name]).norm() / expected[name].norm()) for name in expected
        )
    model.zero_grad()
    return figures


def _float64_errors(model: UniMuRModel, batch: TrainingBatch) -> dict[str, float]:
    """The same in float64, on a quarter of the batch."""
    rows = max(len(batch.image_features) // 4, 4)

    def cut(value):
        if isinstance(value, dict):
            return {name: cut(tensor) for name, tensor in value.items()}
        return value[:rows].double() if value.is_floating_point() else value[:rows]

    fields = {field.name: cut(getattr(batch, field.name)) for field in dataclasses.fields(batch)}
    errors = _errors(copy.deepcopy(model).double(), TrainingBatch(**fields))
    return {f"{name}_float64": value for name, value in errors.items()}


def _bf16_errors(model: UniMuRModel, batch: TrainingBatch) -> dict[str, float]:
    """What the frozen language model in bfloat16 changes of the retrieval loss and its gradient."""
    found = []
    for each in (model, _in_bf16(model)):
        each.zero_grad()
        loss = _retrieval_loss(each, batch)
        loss.backward()
        gradient = [p.grad.flatten() for p in each.heads.parameters() if p.grad is not None]
        found.append((float(loss.detach()), torch.cat(gradient).clone()))
        each.zero_grad()
    (loss, gradient), (half_loss, half_gradient) = found
    return {
        "bf16_loss_error": abs(half_loss - loss) / loss,
        "bf16_gradient_error": float((half_gradient - gradient).norm() / gradient.norm()),
    }


# -- memory -----------------------------------------------------------------------------------------------------------
def _measure_memory(args: argparse.Namespace, file: Path, variant: str) -> float:
    """Returns the MiB that two steps of one variant take beyond what was loaded, in this process. Two, because the
    first step creates the optimizer's state.
    """
    model, batch = _load(args)[0], TrainingBatch(**torch.load(file, weights_only=True))
    step = _steps(model, batch, (variant,))[variant]
    if variant == "plain_step" or variant == "plain_caption_step":
        model.language_model = None  # the plain step has its copy
    gc.collect()
    reset_peak()
    held = _resident_mib()
    step()
    step()
    return peak_mib() - held


def _resident_mib() -> float:
    reset_peak()  # the peak is then what the process holds
    return peak_mib()


def _memory(args: argparse.Namespace, batch: TrainingBatch, names: tuple[str, ...]) -> dict[str, float]:
    """MiB that a step of each variant takes, each in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "batch.pt"
        torch.save(dataclasses.asdict(batch), file)
        with ThreadPoolExecutor(max_workers=2 if args.quick else 1) as pool:  # small ones fit beside each other
            found = pool.map(lambda name: in_fresh_process(_measure_memory, args, file, name), names)
            return dict(zip(names, found, strict=True))


# -- the run ----------------------------------------------------------------------------------------------------------
def _load(args: argparse.Namespace) -> tuple[UniMuRModel, UniMuRProcessor]:
    # Dual alignment trains the readout, which is the whole query here, as in the paper.
    model = UniMuRModel.from_pretrained(args.model, dtype=torch.float32)
    model.heads.query_anchor, model.config.query_anchor = None, "none"
    return model.train(), UniMuRProcessor.from_pretrained(args.model, query_anchor="none")


def _alternate(args: argparse.Namespace, steps: dict[str, Callable[[], object]]) -> Timings:
    return alternate(steps, reference="forward", quick=args.quick or args.growth)


def _growth(args: argparse.Namespace, model, processor, pairs, mib_a_token: float) -> dict[str, float]:
    figures: dict[str, float] = {}
    for batch, tokens in QUICK_GROWTH if args.quick else GROWTH:
        where, names = f"batch{batch}_tokens{tokens}", GROWTH_VARIANTS
        if mib_a_token * batch * tokens > _ROOM * psutil.virtual_memory().available / 2**20:
            names = names[:2]
            print(f"{where}: the plain step does not fit into memory", file=sys.stderr)
        inputs = make_long_batch(model, processor, pairs, batch, tokens, args.seed)
        memory = _memory(args, inputs, names)
        seconds = _alternate(args, _steps(model, inputs, names)).seconds
        figures[f"retrieval_step_over_forward_{where}"] = seconds["retrieval_step"] / seconds["forward"]
        if "plain_step" in names:
            figures[f"retrieval_speedup_over_plain_{where}"] = seconds["plain_step"] / seconds["retrieval_step"]
        figures.update({f"{name}_seconds_{where}": seconds[name] for name in names})
        figures.update({f"{name}_mib_{where}": memory[name] for name in names})
        gc.collect()
    return figures


def run(args: argparse.Namespace) -> dict[str, float]:
    """All figures of one run."""
    torch.manual_seed(args.seed)
    size = QUICK_BATCH if args.quick else BATCH
    model, processor = _load(args)
    pairs = read_pairs(args.pairs)
    batch = make_batch(model, processor, draw_pairs(pairs, size, args.seed))
    if args.growth:
        return _growth(
            args, model, processor, pairs, _memory(args, batch, ("plain_step",))["plain_step"] / _size(batch)
        )
    errors = {**_errors(model, batch), **_float64_errors(model, batch), **_bf16_errors(model, batch)}
    seconds = _alternate(args, _steps(model, batch, (*VARIANTS, *BOUND_VARIANTS))).seconds
    memory = {} if args.quick else _memory(args, batch, VARIANTS)
    other = _other_batch(args, model, processor, pairs)
    return {
        **_ratios(seconds, batch),
        "retrieval_speedup_with_cached_targets": seconds["plain_step_computing_targets"] / seconds["retrieval_step"],
        "caption_speedup_over_plain": seconds["plain_caption_step"] / seconds["caption_step"],
        "kept_speedup_over_plain": seconds["plain_step"] / seconds["retrieval_step_kept"],
        "bf16_speedup": seconds["retrieval_step"] / seconds["retrieval_step_bf16"],
        **errors,
        **{f"{name}_mib": value for name, value in memory.items()},
        "caption_tokens": batch.captions["caption_input_ids"].shape[1],
        **other,
    }


def _ratios(seconds: dict[str, float], batch: TrainingBatch) -> dict[str, float]:
    """What our step takes beside the forward and the plain step, its bound, and the sizes of the batch."""
    rows, tokens = batch.contexts["input_ids"].shape
    padding = 1 - float(batch.contexts["attention_mask"].float().mean())
    forward, step = seconds["forward"], seconds["retrieval_step"]
    figures = {
        "retrieval_step_over_forward": step / forward,
        "retrieval_step_bound_over_forward": 1 - padding + 2 * seconds["ret_position"] / forward,
    }
    if "plain_step" in seconds:
        figures["retrieval_speedup_over_plain"] = seconds["plain_step"] / step
    figures.update({f"{name}_seconds": value for name, value in seconds.items()})
    return {**figures, "batch": rows, "tokens": tokens, "share_of_padding": padding}


def _other_batch(args: argparse.Namespace, model, processor, pairs) -> dict[str, float]:
    """`_ratios` at the other batch size."""
    size, names = (QUICK_OTHER_BATCH, QUICK_OTHER_VARIANTS) if args.quick else (OTHER_BATCH, OTHER_VARIANTS)
    batch = make_batch(model, processor, draw_pairs(pairs, size, args.seed))
    seconds = _alternate(args, _steps(model, batch, (*names, *BOUND_VARIANTS))).seconds
    return {f"{name}_batch{size}": value for name, value in _ratios(seconds, batch).items() if name != "batch"}


def _size(batch: TrainingBatch) -> int:
    return batch.contexts["input_ids"].numel()


def main() -> None:
    parser = argument_parser(__doc__, "unimur-mini")
    parser.add_argument("--pairs", type=Path, help="`caption<TAB>image` lines (default: installable images)")
    parser.add_argument("--growth", action="store_true", help="at other lengths and batches, in half an hour")
    args = parser.parse_args()
    report(
        "training_step_growth" if args.growth else "training_step",
        args,
        run(args),
        notes=[f"dtype float32; minimum of {LONG_ROUNDS if args.growth else MIN_ROUNDS} rounds, variants in turn"],
    )


if __name__ == "__main__":
    main()
