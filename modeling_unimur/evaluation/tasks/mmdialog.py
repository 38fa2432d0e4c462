"""MMDialog: multimodal response retrieval, and context-based image retrieval."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch.nn import functional as F

from ...data.mmdialog import MMDialog
from ...encoding.encoder import Encoder
from ...modeling_univl_dr import UniVLDRModel
from ...processing_univl_dr import UniVLDRProcessor
from ..compare_dialogues import GALLERY_SPLITS
from ..evaluator import Encoded, Evaluator
from ..metrics import CUTOFFS, aligned_recall, area_under_curve, intent_f1, mm_relevance, recall_values, threshold_for
from ..provenance import files_digest, limited
from ..report import Figures, TaskResult
from ..systems.base import KINDS, System
from ..systems.coherent import coherent_name, coherent_scores
from .options import TaskOptions
from .own_sets import own_digest, own_mmdialog
from .replies import PoolRanks, Reply, ReplySet, Scorer, rank_in_pools, read_replies

_NOTES = (
    "Every turn but the first is a reply; all turns before it are the context. A gold text or image stands among "
    "the negatives of its dialogue; candidates that score as high as it stand before it.",
    "A system returns a text and an image (policy always), or a text alone where its policy withholds the image. "
    "Recall of a reply: elements of a kind are aligned from the left; one for which nothing was returned counts 0 "
    "(MMDialog). overall: mean over the gold elements of both kinds; this definition is ours.",
    "image_rate: replies with a gold image for which one is returned; over_return: replies without one for which "
    "one is. @over: the threshold on the best image's score at which over_return is as the name says, found on "
    "these very replies; @ret: the same on the probability of [RET]; @threshold: the model's own.",
    "consistency: of the replies with a gold text and a gold image, those whose returned text and image come from "
    "the same dialogue, right or wrong; this definition is ours.",
    "coherent reply: texts and images of a reply's own candidates, rescored with one another as by the pipeline's "
    "coherent=True; what is returned (thresholds, image_rate) goes by the cosines as without it.",
    "intent_f1: F1 of the returned against the gold kinds, aligned from the left, mean over replies. MM-Relevance: as "
    "MMDialog, 100 x the cosine; in the system's own space unless a judge is named, which the measure's name says.",
)


def open_replies(data: str, options: TaskOptions) -> tuple[ReplySet, dict[str, object], list[str]]:
    """Reads the replies of a split of MMDialog (`test` by default), in either layout, or with `dev` or `test` those of
    the hand-written dialogues of this package, up to `limit`. Returns them, what identifies them, and notes on what is
    missing."""
    if data in GALLERY_SPLITS and not Path(data).exists():
        split, digest, missing = "test", own_digest(data), []
        dialogs, files, words = own_mmdialog(data)
        found = read_replies(dialogs[: options.limit], files.get, words.get)
    else:
        split = options.split or "test"
        published = MMDialog(data, split, options.limit)

        def image_file(image_id: str) -> Path | None:
            path = published.image(image_id)
            return path if path.is_file() else None

        found, digest = read_replies(published, image_file), files_digest(published.files)
        missing = published.report.problems()
    about = {
        "path": data,
        "split": split,
        "digest": limited(digest, options.limit),
        "dialogues": len(found.dialog_ids),
        "texts": len(found.gallery.texts),
        "images": len(found.gallery.images),
    }
    if found.lost:
        missing.append("Left out: " + ", ".join(f"{count:,} {reason}" for reason, count in found.lost.items()) + ".")
    return found, about, missing


def evaluate_mmdialog(
    data: str, systems: Sequence[System], options: TaskOptions, work: Path | None = None
) -> TaskResult:
    """Evaluates multimodal response retrieval with each dialogue's own pools.

    Options: `split`, `limit`, `over_return`, `judge`, `seed`.

    Raises:
        FileNotFoundError, ValueError: as the reader of the set.
    """
    replies, about, missing = open_replies(data, options)
    evaluator, judge = Evaluator(systems, work), ClipJudge(options.judge) if options.judge else None
    found = evaluator.evaluate(
        replies.groups,
        replies.gallery,
        lambda system: reply_figures(replies, system, options, judge),
        with_coherent_replies,
    )
    over = f"@over{options.over_return:g}"
    main = ("text_r1", "image_r1", "overall_r1", f"overall_r1{over}", f"image_rate{over}", "consistency", "intent_f1")
    return TaskResult(
        "mmdialog",
        about,
        np.array([f"{replies.dialog_ids[reply.dialog]}/{reply.turn}" for reply in replies.replies]),
        np.array([replies.dialog_ids[reply.dialog] for reply in replies.replies]),
        found,
        [*_NOTES, *missing, *evaluator.notes()],
        main,
        options.seed,
    )


def evaluate_mmdialog_images(
    data: str, systems: Sequence[System], options: TaskOptions, work: Path | None = None
) -> TaskResult:
    """Evaluates context-based image retrieval: every gold image is ranked in its dialogue's pool of images. Options
    `split`, `limit` and `seed`; errors as `evaluate_mmdialog`."""
    replies, about, missing = open_replies(data, options)
    wanted = [(reply, gold) for reply in replies.replies for gold in reply.golds.get("image", ())]
    if not wanted:
        raise ValueError(f"No reply of {data} has an image that is there: nothing can be retrieved.")
    evaluator = Evaluator(systems, work)
    found = evaluator.evaluate(
        replies.groups,
        replies.gallery,
        lambda system: Figures(recall_values(_rank(replies, system, "image", wanted).ranks)),
    )
    return TaskResult(
        "mmdialog-images",
        about,
        np.array([f"{replies.dialog_ids[reply.dialog]}/{reply.turn}/{gold}" for reply, gold in wanted]),
        np.array([replies.dialog_ids[reply.dialog] for reply, _ in wanted]),
        found,
        [_NOTES[0], *missing, *evaluator.notes()],
        tuple(f"r{k}" for k in CUTOFFS),
        options.seed,
    )


def with_coherent_replies(encoded: dict[str, Encoded]) -> dict[str, Encoded]:
    """Adds the coherent replies of each system that has them and ranks both texts and images."""
    found = {}
    for name, system in encoded.items():
        found[name], coherence = system, system.system.coherence
        if coherence is not None and coherence.weight and len(system.kinds) > 1:
            found[coherent_name(name)] = replace(system, coherence=coherence)
    return found


def _rank(replies: ReplySet, system: Encoded, kind: str, wanted: Sequence[tuple[Reply, int]]) -> PoolRanks:
    count = len(wanted)
    if kind not in system.kinds:
        return PoolRanks(np.zeros(count, np.int64), np.full(count, -1), np.full(count, -np.inf))
    columns = zip(*((reply.query, reply.dialog, gold) for reply, gold in wanted), strict=True)
    queries, owners, golds = map(np.array, columns)
    plain = lambda rows, candidates: system.scores(kind, rows, candidates)  # noqa: E731
    found = rank_in_pools(plain, queries, owners, golds, replies.pools[kind])
    if system.coherence is None:
        return found
    coherent = rank_in_pools(_coherent(replies, system, kind), queries, owners, golds, replies.pools[kind])
    # Whether an image is returned at all is decided by its cosine.
    return replace(coherent, best_scores=found.best_scores)


def _coherent(replies: ReplySet, system: Encoded, kind: str) -> Scorer:
    """Returns scores of replies' candidates, rescored among the pool and the relevant answers of each reply."""
    of_query = {reply.query: reply for reply in replies.replies}

    def scores(rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        found = np.full((len(rows), len(candidates)), -np.inf)
        for place, query in enumerate(rows.tolist()):
            reply = of_query[query]
            lists = {
                each: np.unique(np.append(replies.pools[each][reply.dialog], reply.golds.get(each, ())).astype(int))
                for each in KINDS
            }
            cosines = {each: system.scores(each, np.array([query]), numbers)[0] for each, numbers in lists.items()}
            vectors = {each: system.candidates[each][numbers] for each, numbers in lists.items()}
            # The right answers of the dialogue's other replies do not compete.
            competing = np.isin(candidates, lists[kind])
            rescored = coherent_scores(system.coherence, cosines, vectors)[kind]
            found[place, competing] = rescored[np.searchsorted(lists[kind], candidates[competing])]
        return found

    return scores


def reply_figures(replies: ReplySet, system: Encoded, options: TaskOptions, judge: ClipJudge | None = None) -> Figures:
    """Computes all measures of one system that has embedded the replies; `judge` is that of MM-Relevance."""
    ranks, best, scores = {}, {}, {}
    for kind in KINDS:
        every = [reply.golds.get(kind) or (-1,) for reply in replies.replies]
        wanted = [(reply, gold) for reply, golds in zip(replies.replies, every, strict=True) for gold in golds]
        found = _rank(replies, system, kind, wanted)
        first = np.cumsum([0, *map(len, every)])
        ranks[kind] = [found.ranks[a:b].tolist() for a, b in itertools.pairwise(first)]
        best[kind], scores[kind] = found.best[first[:-1]], found.best_scores[first[:-1]]
    golds = {kind: np.array([len(reply.golds.get(kind, ())) for reply in replies.replies]) for kind in ranks}
    has_text, has_image = golds["text"] > 0, golds["image"] > 0
    values: dict[str, np.ndarray] = {}
    weights, scalars = {}, {"image_auc": area_under_curve(scores["image"], has_image)}
    text_returned = best["text"] >= 0
    for suffix, returned in _policies(system, scores["image"], has_image, options, scalars).items():
        returned = returned & (best["image"] >= 0)
        counts = {"text": text_returned.astype(int).tolist(), "image": returned.astype(int).tolist()}
        values[f"image_rate{suffix}"] = np.where(has_image, 100.0 * returned, np.nan)
        values[f"over_return{suffix}"] = np.where(has_image, np.nan, 100.0 * returned)
        for k in CUTOFFS:
            texts, images = (
                100
                * np.array([aligned_recall(row, some, k) for row, some in zip(ranks[kind], counts[kind], strict=True)])
                for kind in KINDS
            )
            if not suffix:
                values[f"text_r{k}"] = np.where(has_text, texts, np.nan)
            values[f"image_r{k}{suffix}"] = np.where(has_image, images, np.nan)
            total = golds["text"] + golds["image"]
            values[f"overall_r{k}{suffix}"] = (texts * golds["text"] + images * golds["image"]) / total
            weights[f"overall_r{k}{suffix}"] = total.astype(np.float64)
        sequences = (["text"] * text + ["image"] * images for text, images in zip(*counts.values(), strict=True))
        pairs = zip(sequences, replies.replies, strict=True)
        values[f"intent_f1{suffix}"] = np.array([100 * intent_f1(found, reply.kinds) for found, reply in pairs])
    values["consistency"] = _consistency(replies, best, has_text & has_image)
    name, relevance = _relevance(replies, system, best, judge)
    if relevance is not None:
        values[name] = relevance
    return Figures(values, weights, scalars)


def _policies(system: Encoded, scores, has_image, options: TaskOptions, scalars: dict) -> dict[str, np.ndarray]:
    """Returns, by the suffix of a policy's measures, for which replies it returns an image."""
    found, likely = {"": np.ones(len(scores), dtype=bool)}, system.ret
    if likely is not None:
        scalars["ret_auc"] = area_under_curve(likely, has_image)
    threshold = system.system.image_threshold
    if threshold is not None:
        found["@threshold"] = scores >= threshold
        scalars["threshold"] = threshold
    if has_image.any() and not has_image.all():
        over, share = f"{options.over_return:g}", options.over_return / 100
        scalars[f"threshold@over{over}"] = threshold_for(scores, has_image, share)
        found[f"@over{over}"] = scores >= scalars[f"threshold@over{over}"]
        if likely is not None:
            found[f"@ret_over{over}"] = likely >= threshold_for(likely, has_image, share)
    if likely is not None:
        found["@ret"] = likely >= np.log(0.5)
    return found


def _consistency(replies: ReplySet, best: dict[str, np.ndarray], both: np.ndarray) -> np.ndarray:
    found = np.full(len(both), np.nan)
    for row in np.flatnonzero(both):
        text, image = int(best["text"][row]), int(best["image"][row])
        same = text >= 0 and image >= 0 and replies.sources["text"][text] & replies.sources["image"][image]
        found[row] = 100.0 * bool(same)
    return found


def _relevance(replies: ReplySet, system: Encoded, best, judge: ClipJudge | None) -> tuple[str, np.ndarray | None]:
    """Computes MM-Relevance of what the policy `always` returns."""
    vectors: dict[str, dict[int, np.ndarray]] = {}
    for kind in KINDS:
        golds = {gold for reply in replies.replies for gold in reply.golds.get(kind, ())}
        order = sorted(golds | {int(number) for number in best[kind] if number >= 0})
        if judge is not None:
            rows = judge.vectors(kind, [getattr(replies.gallery, f"{kind}s")[number] for number in order])
        elif kind in system.candidates and system.system.in_dual_encoder_space:
            rows = system.candidates[kind][order]
            rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        else:
            return "", None
        vectors[kind] = dict(zip(order, np.nan_to_num(rows), strict=True))
    width = next((len(row) for rows in vectors.values() for row in rows.values()), 1)

    def sequence(elements) -> np.ndarray:
        return np.stack([vectors[kind][number] for kind, number in elements]) if elements else np.empty((0, width))

    found = np.empty(len(replies.replies))
    for row, reply in enumerate(replies.replies):
        left = {kind: list(numbers) for kind, numbers in reply.golds.items()}
        gold = [(kind, left[kind].pop(0)) for kind in reply.kinds]
        returned = [(kind, int(best[kind][row])) for kind in KINDS if best[kind][row] >= 0]
        found[row] = 100 * mm_relevance(sequence(returned), sequence(gold))
    return "mm_relevance" if judge is not None else "mm_relevance_own_space", found


class ClipJudge:
    """Judges the similarity of replies to the gold ones (MM-Relevance) by a CLIP, SigLIP or open_clip model, a folder
    or Hub id; MMDialog's own script judges by `openai/clip-vit-base-patch32`.

    Raises:
        ValueError: it cannot be loaded as a CLIP.
    """

    def __init__(self, source: str):
        try:
            model, processor = UniVLDRModel.from_pretrained(source).eval(), UniVLDRProcessor.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"The judge {source!r} cannot be loaded as a CLIP: {str(error).splitlines()[0]}"
            ) from error
        self.encoder, self.source = Encoder(model, processor, progress=True), source

    def vectors(self, kind: str, items: Sequence[str]) -> np.ndarray:
        """Encodes texts, or images by their paths, as unit vectors `(items, width)`. A text that is too long is cut;
        an image that cannot be read is NaN."""
        if not items:
            return np.empty((0, 1))
        if kind == "text":
            return F.normalize(self.encoder.encode_texts(items, desc="Judging texts"), dim=-1).numpy()
        found = self.encoder.encode_images(items, desc="Judging images")
        vectors = F.normalize(found.vectors, dim=-1)
        vectors[~found.readable] = np.nan
        return vectors.numpy()
