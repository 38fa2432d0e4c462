"""Fits heads for an existing index: a conversation queries its vectors, and nothing is re-encoded.

```python
from transformers import pipeline
from modeling_unimur.training.adapt import adapt

adapt("products.npy", "products.jsonl", "HuggingFaceTB/SmolLM2-135M-Instruct", "my-heads",
      encoder="sentence-transformers/all-MiniLM-L6-v2")  # the encoder, if at hand, is what the heads correct

retriever = pipeline("multimodal-retrieval", model="my-heads", trust_remote_code=True)
retriever.load_index("my-heads/index")
retriever("do you have something for rainy days? not an umbrella", top_k=3)
# or your own index, in place: faiss_index.search(retriever.embed(dialogue).numpy(), 10)
```
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, set_seed

from .. import UniMuRModel, UniMuRProcessor
from ..data.atomic_files import write_json
from ..releasing.clean_folder import write_model
from .adapt_contexts import IMAGE_SHARE, AdaptRows, Groups, encoder_contexts, require_same_space, training_contexts
from .adapt_selection import Selection, chance, held_out_sets, own_metric_score, recall_of
from .collators import DualAlignmentCollator
from .dev_sets import DevSet
from .precomputed import PrecomputedCorpus, join, load_items, load_vectors
from .readout_fit import (
    current_readout,
    fit_readout,
    read_contexts,
    read_turns,
    sharpen_readout,
    start_image_map,
)
from .text_encoders import TextSpace, folder_or_id, load_text_space

logger = logging.getLogger(__name__)

INDEX_FOLDER = "index"
# Distinct texts below which there is nothing to learn from and to judge by.
_FEWEST = 8
# Share of the distinct texts, and at most so many, that are not trained on and judge the heads.
_HELD_OUT, _MOST_HELD_OUT = 0.1, 300


@dataclass
class AdaptOptions:
    """Options of fitting heads.

    Args:
        contexts: maximum number of training contexts. With an encoder, half of them are its dialogues and glosses.
        max_context_tokens: maximum number of tokens of a context in training. The latest tokens are kept.
        readout_prompt: text between a context and [RET].
        dtype: data type of the language model during training: `float32`, `bfloat16`, or None for what is faster here.
        seed: seed of all random choices.
    """

    contexts: int = 10_000
    max_context_tokens: int = 64
    readout_prompt: str = ' means in one word: "'
    dtype: str | None = None
    seed: int = 0

    def __post_init__(self):
        if self.contexts < _FEWEST or self.max_context_tokens < 1:
            raise ValueError(
                f"contexts={self.contexts} (at least {_FEWEST}), max_context_tokens={self.max_context_tokens} (at "
                "least 1)."
            )
        if self.dtype not in (None, "float32", "bfloat16"):
            raise ValueError(f"dtype is float32, bfloat16 or None, not {self.dtype!r}.")


def adapt(
    embeddings: str | os.PathLike | np.ndarray,
    texts: str | os.PathLike | Sequence | None,
    language_model: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    encoder: str | os.PathLike | None = None,
    chats: str | os.PathLike | None = None,
    kind: str = "text",
    vector_column: str | None = None,
    language_model_revision: str | None = None,
    save_index: bool = True,
    options: AdaptOptions | None = None,
) -> dict:
    """Fit heads, evaluate them on held-out items and write a folder that the pipeline loads.

    The targets are the ready vectors themselves. Contexts are the items' texts in the shapes of a dialogue: after
    another text that does not count, over several turns, half forgotten (`adapt_contexts`). With the encoder at hand,
    dialogues and glosses built from WordNet, whose answers it embeds, are half of them. The language model reads each
    context once. The readout starts from a ridge regression on its hidden states at [RET] and is sharpened by InfoNCE
    (the paper's textual and visual matching); [RET] itself is not trained. The better of the two on a separate
    selection split is saved.

    Where the encoder reads images and the index has captioned ones, the heads learn contexts with images too: the
    language model reads an image as its vector, which the index holds already.

    With the encoder at hand, queries are anchored: the encoder's own vectors of the whole dialogue and of its last
    turn, corrected by the readout. The weights are chosen on texts, dialogues, glosses, own chats and rounds of
    questions that nothing was fitted on and that judge nothing, from a grid that holds the encoder alone: the result
    is not below it on any of these sets. The folder names the encoder, which runs with every query.

    Args:
        embeddings: `.npy`, `.parquet`, a FAISS index whose vectors can be had back, or an array `(items, width)`.
        texts: one per vector: `.jsonl` or `.parquet` with `text` and, if wanted, `id`, `kind` (`text` or `image`),
            `image`; `.txt`; or a list of texts or records. None reads them from the parquet file of the vectors.
        language_model: Hub id or folder of a causal language model.
        output_dir: gets the heads, the processor, `results.json` and the index. A language model or an encoder from a
            folder is named by its path there: pass `language_model=` and `anchor_encoder=` to load the heads on
            another machine.
        encoder: Hub id or folder of what made the vectors, a sentence-transformers model or a CLIP-like one.
        chats: a person's own, JSON lines of chat messages, which the heads learn as well: every turn after the first
            one is the reply to those before it. Needs the encoder, which embeds the replies.
        kind: kind of items that do not say theirs.
        vector_column: column of a parquet file with several.
        language_model_revision: branch, tag or commit on the Hub.
        save_index: whether to write the index; without it query your own with `retriever.embed(dialogue)`.
        options: how heads are fitted.

    Returns:
        `dict`: what `results.json` holds. `held_out` has for each set (`text_to_text`, `dialogue_to_image`, ...) the
        numbers of `queries` and `candidates`, and recalls in percent: `chance`, `untrained`, `closed_form`,
        `sharpened` (readouts alone), `encoder` (its own vector of the same words), `anchored` (encoder and readout
        together), and `<kept>_own_metric` where the vectors are not normalised; `kept` says which of them was
        written. With an encoder it is `anchored`, or `encoder` where nothing was worth a weight, and `anchor` has the
        readout, the weights, and what the encoder alone and the anchored query reached on the sets that chose
        (`chosen_on`: mean reciprocal rank in percent).

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: an unknown format, no vectors, NaN, numbers or widths that do not agree, too few texts, an encoder
            that did not make these vectors, chats without an encoder or without a reply, or an output folder with
            something else in it.
        ImportError: naming the extra that brings what reads a file or runs the encoder.
    """
    options, begin = options or AdaptOptions(), time.perf_counter()
    if chats is not None and encoder is None:
        raise ValueError(
            f"Replies of the chats in {chats} need vectors: name the encoder that made those of the index."
        )
    output = _free_folder(output_dir)
    index = _ready_index(embeddings, texts, kind, vector_column)
    set_seed(options.seed)
    data = _data(index, encoder, chats, options)
    model, processor = _untrained(language_model, language_model_revision, index, data, options)
    if torch.accelerator.is_available():
        model.to(torch.accelerator.current_accelerator())
    limit = options.max_context_tokens
    collator = DualAlignmentCollator(processor, limit, limit)
    selection = Selection(
        model,
        processor,
        lambda contexts: read_turns(model, contexts, collator),
        data.judging,
        data.choosing,
        data.space,
    )
    selection.judge("untrained", current_readout(model))
    prepared = time.perf_counter()
    if data.captioned:
        start_image_map(model, data.captioned, collator, options.seed)
    read = read_contexts(model, data.rows, collator, with_images=True)
    start = fit_readout(read, options.seed)
    selection.offer("closed_form", start)
    selection.offer("sharpened", sharpen_readout(read, start, options.seed))
    kept = selection.install()
    if data.space is not None:
        # Of longer dialogues the language model reads what it was judged by, and the encoder all that it holds.
        processor.max_context_tokens = limit + processor.overhead_tokens
    results = {
        "task": "adapt",
        "language_model": os.fspath(language_model),
        "encoder": None if encoder is None else os.fspath(encoder),
        "items": {kind: len(index.rows(kind)) for kind in ("text", "image")},
        "width": index.width,
        "distinct_texts": data.distinct_texts,
        "contexts": len(data.rows),
        "contexts_with_images": sum(one.shown >= 0 for one in data.rows.contexts),
        "kept": kept,
        "chosen_by": selection.merits,
        **({} if selection.anchors is None else {"anchor": selection.anchors.report()}),
        "ridge_penalty": start.penalty,
        "trained_parameters": sum(p.numel() for p in model.heads.parameters()),
        "seconds": {
            "prepare": round(prepared - begin, 1),
            "fit": round(time.perf_counter() - prepared, 1),
        },
        "threads": torch.get_num_threads(),
        "held_out": _table(selection, index, kept),
        "notes": index.notes,
        "options": asdict(options),
    }
    write_model(output, model, processor, heads_only=True)
    if save_index:
        index.to_retrieval_index().save(output / INDEX_FOLDER)
    write_json(output / "results.json", results)
    return results


@dataclass
class _Data:
    """What heads are fitted on, and the held-out sets that judge them and that choose among them; `captioned` images
    start the image map where contexts show images."""

    rows: AdaptRows
    judging: list[DevSet]
    choosing: list[DevSet]
    space: TextSpace | None
    distinct_texts: dict[str, int]
    captioned: list[dict]


def _data(index: PrecomputedCorpus, encoder, chats, options: AdaptOptions) -> _Data:
    """Divides the texts of an index into those for training, selection and evaluation, and makes contexts."""
    groups = Groups.of(index)
    if len(groups) < _FEWEST:
        raise ValueError(
            f"{len(groups)} distinct texts for {len(index.items)} vectors: at least {_FEWEST} are needed to learn "
            "from and to judge by. Give the texts of the items, or captions of the images."
        )
    order = torch.randperm(len(groups), generator=torch.Generator().manual_seed(options.seed)).tolist()
    count = min(max(round(len(order) * _HELD_OUT), 2), _MOST_HELD_OUT, len(order) - 6)
    last = count + max(count // 2, 2)
    held_out, choosing, chosen = order[:count], order[count:last], order[last:]
    space = None
    if encoder is not None:
        space = load_text_space(encoder)
        index.notes.append(require_same_space(space, index))
    own_share = options.contexts if space is None else math.ceil(options.contexts / 2)
    shows_images = space is not None and space.reads_images and any(groups.rows["image"][group] for group in chosen)
    share = IMAGE_SHARE if shows_images else 0.0
    contexts, table = training_contexts(groups, chosen, own_share, options.seed, share), index.vectors
    judges = held_out_sets(index, groups, held_out, options.seed)
    deciding = held_out_sets(index, groups, choosing, options.seed + 1)
    if space is not None:
        unseen, count = [*held_out, *choosing], options.contexts - own_share
        table, judging, further, notes = encoder_contexts(space, groups, chosen, unseen, contexts, count, table, chats)
        judges.extend(judging)
        deciding.extend(further)
        index.notes.extend(notes)
    counts = {
        "trained": len(chosen),
        "choosing": len(choosing),
        "held_out": len(held_out),
        "items_without_text": groups.untold,
    }
    captioned = [
        {"caption": groups.texts[group], "caption_visual_features": index.vectors[row], "target_ids": group}
        for group in (chosen if shows_images else ())
        for row in groups.rows["image"][group]
    ]
    return _Data(AdaptRows(contexts, table, index.vectors), judges, deciding, space, counts, captioned)


def _free_folder(output_dir: str | os.PathLike) -> Path:
    output = Path(output_dir).expanduser()
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file: name a folder for the heads.")
    if output.is_dir() and any(output.iterdir()):
        results = output / "results.json"
        if not results.is_file() or json.loads(results.read_text(encoding="utf-8")).get("task") != "adapt":
            raise ValueError(f"{output} holds something else: name an empty folder, or one that `adapt` wrote.")
    return output


def _ready_index(embeddings, texts, kind: str, column: str | None) -> PrecomputedCorpus:
    if texts is None:
        if not isinstance(embeddings, (str, os.PathLike)) or Path(embeddings).suffix.lower() != ".parquet":
            raise ValueError("Only a parquet file can hold vectors and texts: give the texts, one per vector.")
        texts = embeddings
    vectors = load_vectors(embeddings, column)
    return join(vectors, load_items(texts, kind))


def _untrained(language_model, revision, index: PrecomputedCorpus, data: _Data, options: AdaptOptions):
    """Returns the model before training, and its processor; both name the language model by its source."""
    source = folder_or_id(language_model)
    try:
        processor = UniMuRProcessor.from_backbones(
            source, language_model_revision=revision, readout_prompt=options.readout_prompt
        )
        depth = AutoConfig.from_pretrained(source, revision=revision).get_text_config().num_hidden_layers
    except OSError as error:
        raise OSError(
            f"The language model {source!r} could not be loaded: it is missing, or cannot be reached. Check the id "
            f"or the folder. ({str(error).splitlines()[0]})"
        ) from error
    contexts = data.rows.contexts
    both = any(one.text_row >= 0 for one in contexts) and any(one.image_row >= 0 for one in contexts)
    model = UniMuRModel.from_backbones(
        source,
        processor=processor,
        language_model_revision=revision,
        dtype=getattr(torch, options.dtype) if options.dtype else _faster_dtype(),
        projection_dim=index.width,
        visual_feature="projected" if data.captioned else "pooled",
        ret_layers=[*sorted({depth // 2, 3 * depth // 4}), -1],
        separate_logit_scales=both,
        caption_loss_weight=0.0,
    )
    if Path(source).is_dir():
        model.config.text_base_model = source
    model.config.heads_only = True
    return model, processor


def _faster_dtype() -> torch.dtype:
    """Returns bfloat16 where the processor or an accelerator multiplies it, else float32."""
    amx = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    accelerated = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if accelerated or amx() else torch.float32


def _table(selection: Selection, index: PrecomputedCorpus, kept: str) -> dict:
    found = {}
    for number, dev in enumerate(selection.judging):
        row = {"queries": len(dev.contexts), "candidates": len(dev.candidates), "chance": chance(dev)}
        row.update({name: recall_of(queries[number], dev) for name, queries in selection.queries.items()})
        if index.raw is not None and dev.name in ("text_to_text", "text_to_image"):
            raw, queries = index.raw[torch.from_numpy(index.rows(dev.kind))], selection.queries[kept][number]
            row[f"{kept}_own_metric"] = recall_of(queries, dev, own_metric_score(raw, index.metric))
        found[dev.name] = row
    return found
