"""VisDial: dialogue to image and image to dialogue, and the ranking of 100 answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from ...data.visdial import VisDial, VisDialDialog, VisDialRound
from ..answer_ranking import AnswerScorer, Question
from ..compare_dialogues import GALLERY_SPLITS
from ..evaluator import Chunks, Encoded, Evaluator, image_key, work_folder
from ..metrics import CUTOFFS, first_right_ranks, judge, ndcg_at_k, recall_values
from ..provenance import data_record, limited
from ..report import Figures, TaskResult
from ..systems.base import Gallery, System
from .options import TaskOptions
from .own_sets import own_digest, own_visdial

_ANSWER_CUTOFFS = (1, 5, 10, 20)


def open_visdial(data: str, options: TaskOptions) -> tuple[list[VisDialDialog], dict[str, object], list[str]]:
    """Reads the dialogues of a split (`val` by default; with `dev` or `test`, this package's own) up to `limit`.
    Returns them, what identifies them, and notes on what is missing."""
    if data in GALLERY_SPLITS and not Path(data).exists():
        dialogs, digest = own_visdial(data)[: options.limit], limited(own_digest(data), options.limit)
        return dialogs, {"path": data, "split": "val", "digest": digest, "dialogues": len(dialogs)}, []
    found = VisDial(data, options.split or "val", options.limit)
    dialogs = list(found)
    about = data_record(data, found.split, found.files, options.limit, dialogues=len(dialogs))
    return dialogs, about, found.report.problems()


def visdial_context(dialog: VisDialDialog, rounds: int, options: TaskOptions) -> list[dict]:
    """Converts the first `rounds` of a dialogue to chat messages, by the options `form` and `with_caption`."""
    caption = dialog.caption.strip() if options.with_caption else ""
    if options.form == "fromage":
        words = [caption] if caption else []
        for part in dialog.rounds[:rounds]:
            words += [f"Q: {part.question}?", f"A: {part.answer}."] if part.answer else [f"Q: {part.question}?"]
        return [_message("user", " ".join(words))]
    messages = [_message("assistant", caption)] if caption else []
    for part in dialog.rounds[:rounds]:
        messages.append(_message("user", f"{part.question}?"))
        if part.answer:
            messages.append(_message("assistant", part.answer))
    return messages


def _message(role: str, text: str, *images: str) -> dict:
    parts = [{"type": "image", "image": image} for image in images]
    return {"role": role, "content": [*parts, *([{"type": "text", "text": text}] if text else [])]}


def evaluate_visdial(
    data: str, systems: Sequence[System], options: TaskOptions, work: Path | None = None
) -> TaskResult:
    """Evaluates dialogue to image, and image to dialogue, over all images of the split, by the number of rounds shown.

    FROMAGe's script ranks the dialogues for each image, which is `image2dialogue`, and calls it text-to-image.

    Options: `rounds`, `form`, `with_caption`, `split`, `limit`, `seed`.

    Raises:
        FileNotFoundError, ValueError: as the reader; ValueError also where no dialogue has its image.
    """
    dialogs, about, missing = open_visdial(data, options)
    dialogs = [dialog for dialog in dialogs if dialog.image is not None and dialog.rounds]
    if not dialogs:
        raise ValueError(f"No dialogue of {data} has its image: put the images beside the file. {missing}")
    images = tuple(str(dialog.image) for dialog in dialogs)
    gallery = Gallery((), tuple(dialog.image_id for dialog in dialogs), images, ("",) * len(dialogs))
    shown = [sorted({min(n or len(d.rounds), len(d.rounds)) for n in options.rounds}) for d in dialogs]
    groups = [
        [visdial_context(dialog, count, options) for count in counts]
        for dialog, counts in zip(dialogs, shown, strict=True)
    ]
    starts = np.cumsum([0, *map(len, groups)])
    golds = np.arange(len(dialogs))

    def measure(system: Encoded) -> Figures:
        values: dict[str, np.ndarray] = {}
        for count in options.rounds:
            label = f"rounds{count}" if count else "all rounds"
            whole = np.array([len(dialog.rounds) >= count for dialog in dialogs])  # others have no such figure
            rows = golds[whole]
            queries = np.array([starts[n] + shown[n].index(count or len(dialogs[n].rounds)) for n in rows], dtype=int)
            forward = system.gold_ranks("image", queries, rows)
            backward = system.query_ranks("image", queries, rows)
            for prefix, ranks in (("dialogue2image", forward), ("image2dialogue", backward)):
                for name, column in recall_values(ranks).items():
                    full = np.full(len(dialogs), np.nan)
                    full[whole] = column
                    values[f"{prefix} {name} {label}"] = full
        return Figures(values)

    evaluator = Evaluator(systems, work)
    found = evaluator.evaluate(groups, gallery, measure)
    # The last number of rounds that all dialogues have; short sets do not reach VisDial's ten.
    shortest = min(len(dialog.rounds) for dialog in dialogs)
    last = next((count for count in reversed(options.rounds) if count <= shortest), options.rounds[-1])
    label = f"rounds{last}" if last else "all rounds"
    main = tuple(f"{way} r{k} {label}" for way in ("dialogue2image", "image2dialogue") for k in CUTOFFS)
    notes = [
        f"{len(dialogs)} images to choose from (2,064 in VisDial's val); one is right for each dialogue.",
        "image2dialogue ranks the dialogues for each image: what FROMAGe's script reports as text-to-image.",
        f"Dialogues are written as {options.form}, {'with' if options.with_caption else 'without'} the caption.",
        *missing,
        *evaluator.notes(),
    ]
    ids = np.array([dialog.image_id for dialog in dialogs])
    return TaskResult("visdial", about, ids, ids, found, notes, main, options.seed)


def evaluate_visdial_answers(
    data: str, systems: Sequence[System], options: TaskOptions, work: Path | None = None
) -> TaskResult:
    """Ranks each round's answer options, which only VisDial's official files have.

    UniMuR and what is like it rank by the likelihood of the answer after the image and the rounds before, as FROMAGe;
    systems without a language model by the similarity of the answer to the dialogue so far.

    Options: `with_caption`, `split`, `limit`, `seed`.

    Raises:
        FileNotFoundError, ValueError: as the reader; ValueError also where no round has options.
    """
    dialogs, about, missing = open_visdial(data, options)
    places = [
        (number, place)
        for number, dialog in enumerate(dialogs)
        for place, part in enumerate(dialog.rounds)
        if part.options is not None and part.gold is not None
    ]
    if not places:
        raise ValueError(f"No round of {data} has answer options: take VisDial's official files.")
    found = {}
    for system in systems:
        start = time.perf_counter()
        score = _by_likelihood if system.scores_answers else _by_similarity
        scores = score(dialogs, places, system, options, work)
        values = answer_values(
            scores,
            [dialogs[number].rounds[place].gold for number, place in places],
            [dialogs[number].rounds[place].relevance for number, place in places],
        )
        seconds = {"seconds": round(time.perf_counter() - start, 3)}
        found[system.name] = Figures(values, about=Encoded(system, None).about() | seconds)
    notes = [
        "ndcg: over the relevance that several people gave to the options of one round a dialogue, cut at the number "
        "of options that are relevant at all (VisDial's own form); rounds count from 1 there. mrr, r@k: of the "
        "annotated answer. Options that score as high as the right one stand before it.",
        "Systems with a language model score an answer by the sum of its tokens' log-probabilities "
        "after the image; the others by its similarity to the words of the dialogue so far.",
        *missing,
    ]
    ids = np.array([f"{dialogs[number].image_id}/{place + 1}" for number, place in places])
    clusters = np.array([dialogs[number].image_id for number, _ in places])
    return TaskResult(
        "visdial-answers", about, ids, clusters, found, notes, ("ndcg", "mrr", "r1", "r5", "r10"), options.seed
    )


def answer_values(
    scores: Sequence[np.ndarray], golds: Sequence[int], relevance: Sequence[Sequence[float] | None]
) -> dict[str, np.ndarray]:
    """Returns NDCG, MRR and R@k in percent, one figure per round.

    Args:
        scores: scores of each round's options, higher is better.
        golds: number of each round's right option.
        relevance: relevance of each round's options; None where a round has none, which then has no NDCG.
    """
    ranks, ndcg = np.empty(len(scores), dtype=np.int64), np.full(len(scores), np.nan)
    for number, (row, gold, grades) in enumerate(zip(scores, golds, relevance, strict=True)):
        ranks[number] = first_right_ranks(np.asarray(row)[None], np.array([gold]), np.arange(len(row)))[0]
        if grades is None:
            continue
        positive = {option: grade for option, grade in enumerate(grades) if grade > 0}
        # Equal scores are ordered against the system: the less relevant option first.
        order = np.lexsort((np.asarray(grades), -np.asarray(row)))
        ndcg[number] = 100 * ndcg_at_k(judge(order[None], [positive]), len(positive))[0] if positive else np.nan
    return {"ndcg": ndcg, "mrr": 100.0 / ranks, **recall_values(ranks, cutoffs=_ANSWER_CUTOFFS)}


def _by_likelihood(dialogs, places, system: System, options: TaskOptions, work) -> list[np.ndarray]:
    """Returns log-likelihoods, computed for all rounds of a dialogue together."""
    scorer = AnswerScorer(system.model, system.processor)
    folder = work_folder(system, work)
    items = [repr(replace(dialog, image=image_key(dialog.image))) for dialog in (dialogs if folder else ())]
    kept = Chunks(folder and folder / "answers", [repr(options.with_caption), *items])
    by_dialog: dict[int, list[int]] = {}
    for number, place in places:
        by_dialog.setdefault(number, []).append(place)
    found: list[np.ndarray] = []
    for number, rounds in tqdm(by_dialog.items(), desc=f"Answers ({system.name})"):
        widths = [len(dialogs[number].rounds[place].options) for place in rounds]
        flat = kept.get(number)
        if flat is None:
            flat = np.concatenate(scorer.score([_question(dialogs[number], place, options) for place in rounds]))
            kept.put(number, flat)
        found += np.split(flat, np.cumsum(widths)[:-1])
    return found


def _question(dialog: VisDialDialog, place: int, options: TaskOptions) -> Question:
    """Returns the image, the rounds before, and a question in FROMAGe's form. Unlike there, the space belongs to the
    answer's first token."""
    lines = [dialog.caption.strip()] if options.with_caption and dialog.caption.strip() else []
    for part in dialog.rounds[:place]:
        lines += [f"Q: {part.question}?", f"A: {part.answer}"]
    lines += [f"Q: {dialog.rounds[place].question}?", "A:"]
    images = [] if dialog.image is None else [str(dialog.image)]
    return Question([_message("user", "\n".join(lines), *images)], [f" {o}" for o in dialog.rounds[place].options])


def _by_similarity(dialogs, places, system: System, options: TaskOptions, work) -> list[np.ndarray]:
    answers = dict.fromkeys(option for n, p in places for option in dialogs[n].rounds[p].options)
    numbers = {answer: number for number, answer in enumerate(answers)}
    by_dialog: dict[int, list[list[dict]]] = {}
    for number, place in places:
        dialog = dialogs[number]
        asked = VisDialRound(dialog.rounds[place].question, "")
        so_far = VisDialDialog(dialog.image_id, None, dialog.caption, (*dialog.rounds[:place], asked))
        by_dialog.setdefault(number, []).append(visdial_context(so_far, place + 1, options))
    encoded = Evaluator([system], work).encode(list(by_dialog.values()), Gallery(tuple(answers)))[system.name]
    found = []
    for query, (number, place) in enumerate(places):
        chosen = np.array([numbers[option] for option in dialogs[number].rounds[place].options])
        found.append(encoded.scores("text", np.array([query]), chosen)[0])
    return found
