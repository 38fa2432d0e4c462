"""Writes the tables of figures in README.md, docs/ and the model cards from the files of results.

    python benchmarks/tables.py [--check]

A table stands between `<!-- table: NAME -->` and `<!-- end of table -->`, in the metadata of a card between the same
words as YAML comments. What stands between them is replaced; `--check` only says which pages would change.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIALOGUES = ROOT / "modeling_unimur" / "evaluation" / "data"
PAGES = sorted(
    [
        ROOT / "README.md",
        DIALOGUES / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "hub_cards").glob("*/README.md"),
    ]
)
MINUS = "\N{MINUS SIGN}"
TABLES: dict[str, Callable[[], str]] = {}
_MARKED = re.compile(
    r"(?P<begin><!-- table: (?P<name>[\w-]+) -->\n)(?P<body>.*?)(?P<end><!-- end of table -->)"
    r"|(?P<begin2># table: (?P<name2>[\w-]+)\n)(?P<body2>.*?)(?P<end2># end of table)",
    re.DOTALL,
)


# -- pieces -----------------------------------------------------------------------------------------------------------
@cache
def results(name: str) -> dict:
    """A file of results: of a benchmark, or of a card (`card:FOLDER`)."""
    kind, _, folder = name.partition(":")
    path = ROOT / "hub_cards" / folder / "results.json" if folder else ROOT / "benchmarks" / "results" / f"{kind}.json"
    return json.loads(path.read_text(encoding="utf-8"))


def figures(name: str) -> dict[str, float]:
    return results(name)["figures"]


def number(value: float, digits: int = 1) -> str:
    return f"{value:.{digits}f}".replace("-", MINUS)


def interval(found: dict[str, float], mean: bool = True) -> str:
    """`24.3 (20.0 … 28.6)`, or the interval alone."""
    ends = f"{number(found['low'])} … {number(found['high'])}"
    return f"{number(found['mean'])} ({ends})" if mean else ends


def with_interval(found: dict[str, float], key: str) -> str:
    return interval({"mean": found[key], "low": found[f"{key}_low"], "high": found[f"{key}_high"]})


def recalls(found: dict[str, float], key: str, ranks: tuple[int, ...] = (1, 5, 10), digits: int = 1) -> str:
    return " / ".join(number(found[f"{key}_r{rank}"], digits) for rank in ranks)


def two_digits(value: float) -> str:
    """At least two significant digits: 179, 71, 6.1, 0.33."""
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def bold(cells: list[str]) -> list[str]:
    return [f"**{cell}**" for cell in cells]


Rows = list[list[str]]


def table(function: Callable[..., Rows], name: str = "", *arguments: object) -> Callable[..., Rows]:
    """Registers a function that returns rows of cells, the header first, under a name, by default its own."""

    def markdown() -> str:
        header, *rows = function(*arguments)
        rows = [header, ["---"] * len(header), *rows]
        return "".join("|" + "".join(f" {cell} |" if cell else " |" for cell in row) + "\n" for row in rows)

    TABLES[name or function.__name__] = markdown
    return function


def rows_of(header: list[str], names: Mapping[str, str], cells: Callable[[str], Iterable[str]]) -> Rows:
    """The header, and for each key of `names` a row of its words and its cells."""
    return [header, *([words, *cells(key)] for key, words in names.items())]


# -- UniMuR-mini ------------------------------------------------------------------------------------------------------
_QUERIES = {
    "encoder": "CLIP-T, whole dialogue",
    "last": "CLIP-T, last turn",
    "whole_last": "CLIP-T, whole dialogue + last turn",
    "fitted": "the same two with fitted weights, no language model",
    "network": "the same two with fitted weights and a network, no language model",
    "readout": "language model alone (the paper's query)",
    "anchored": "**UniMuR-mini** (anchored query)",
    "fixed": "UniMuR-mini without attention",
    "ungated": "UniMuR-mini without the gate",
}


def _anchor_rows(systems: tuple[str, ...], sets: dict[str, str]) -> Rows:
    found = figures("anchor")
    best = {key: number(max(found[f"{one}_{key}_mrr"] for one in systems)) for key in sets}

    def cells(system: str) -> Iterable[str]:
        own = {key: number(found[f"{system}_{key}_mrr"]) for key in sets}
        return (f"**{cell}**" if cell == best[key] else cell for key, cell in own.items())

    return rows_of(["query, mean reciprocal rank", *sets.values()], {key: _QUERIES[key] for key in systems}, cells)


_SETS = {"dialogue_text": "text of the reply", "dialogue_image": "image of the reply", "chat": "chats"}
table(_anchor_rows, "anchor", ("encoder", "whole_last", "fitted", "network", "readout", "anchored"), _SETS)
table(_anchor_rows, "anchor_all", tuple(_QUERIES), {**_SETS, "more": "STAR"})


@table
def anchor_differences() -> Rows:
    found, sets = figures("anchor"), {**_SETS, "more": "STAR"}
    rivals = {"anchor": "the best row without a language model", "encoder": "CLIP-T, whole dialogue"}
    header = ["UniMuR-mini minus", *sets.values()]
    return rows_of(header, rivals, lambda key: (with_interval(found, f"{one}_mrr_over_{key}") for one in sets))


_CHANGES = (
    ("readout", "_trained_head", "the paper: the language model alone"),
    ("built", "_trained_head", "+ anchor, fitted on built dialogues and glosses"),
    ("fixed", "_trained_head", "+ real chats and questions in its fit"),
    ("anchored", "_trained_head", "+ attention on the last turn"),
    ("anchored", "", "+ classifier in the image head"),
    ("coherent", "", "+ coherent replies"),
)


@table
def anchor_ablation() -> Rows:
    found = figures("anchor")
    sets = {**_SETS, "more": "STAR", "photos": "photographs"}
    rows = [["one change a row, mean reciprocal rank", *sets.values(), "consistency"]]
    for system, head, words in _CHANGES:
        measures = [f"{one}{head if one in ('dialogue_image', 'photos') else ''}_mrr" for one in sets]
        keys = [f"{system}_{measure}" for measure in (*measures, f"consistency{head}")]
        rows.append([words, *(number(found[key]) if key in found else "—" for key in keys)])
    return rows


_LEFT_OUT = {
    "left_out_glosses": "WordNet glosses → word",
    "left_out_dialogues": "dialogues built from WordNet",
    "left_out_questions": "captions as rounds of questions and answers",
    "left_out_chats": "chats",
    "left_out_long_chats": "chats of up to 20 turns",
    "more": "STAR",
    "dialogue_text": "hand-written → text",
    "dialogue_image": "hand-written → image",
}


@table
def anchor_left_out() -> Rows:
    found, systems = figures("anchor"), ("encoder", "whole_last", "readout", "fixed", "anchored")
    header = ["a kind that the fit has not seen", *(_QUERIES[one].replace("**", "") for one in systems)]

    def cells(one: str) -> list[str]:
        means = [number(found[f"{system}_{one}_mrr"]) for system in systems]
        return [*means, *(with_interval(found, f"{one}_mrr_over_{rival}") for rival in ("encoder", "anchor"))]

    rivals = (_QUERIES["encoder"], "the best row without a language model")
    return rows_of([*header, *(f"UniMuR-mini {MINUS} {rival}" for rival in rivals)], _LEFT_OUT, cells)


_CONTEXTS = {
    "title_image": ("title of an unseen image", "619 images"),
    "title_title": ("the same", "619 titles"),
    "gloss_title": ("WordNet gloss of an unseen word", "the words of 500 glosses"),
    "dialogue_text": ("dialogue about an unseen thing", "the answers of 500 dialogues"),
    "dialogue_image": ("dialogue about an unseen image", "619 images"),
}


@table
def seeds() -> Rows:
    found, card = figures("unimur_mini_seeds"), results("card:unimur-mini")
    header = ["context", "candidates", "heads before training", "the release (seed 0)", "mean of 3 seeds"]
    rows = [[*header, "± at 10"]]
    for key, words in _CONTEXTS.items():
        measured = [recalls(card["test_untrained"], key), recalls(card["test"], key), recalls(found, key)]
        rows.append([*words, *measured[:2], f"**{measured[2]}**", number(found[f"{key}_r10_std"])])
    return rows


@table
def hand_written() -> Rows:
    found = figures("quality")
    runs = f"{found['seeds']:.0f} trainings"
    systems = {
        "coherent": f"**UniMuR-mini**, coherent replies, {runs}",
        "dialogue": f"UniMuR-mini, two rankings, {runs}",
        "clip_whole_coherent": "CLIP-T, whole dialogue, coherent replies",
        "clip_whole": "CLIP-T, whole dialogue",
        "clip_last": "CLIP-T, last turn",
        "clip_linear": "CLIP-T + linear map, fitted on 10,000 of the same dialogues and glosses",
        "bm25": "BM25 on titles and tags",
    }
    rows = [["100 test dialogues, recall at 1 / 5 / 10", "image of the reply", "text of the reply"]]
    for key, name in systems.items():
        cells = [recalls(found, f"{key}_{kind}", digits=0) for kind in ("image", "text")]
        rows.append([name, *(bold(cells) if key == "coherent" else cells)])
    return rows


@table
def consistency() -> Rows:
    found = figures("quality")
    header = ["consistency, 100 test dialogues", "two rankings", "coherent replies"]
    names = {"clip_whole_": "CLIP-T, whole dialogue", "": f"**UniMuR-mini**, {found['seeds']:.0f} trainings"}
    return rows_of(
        header, names, lambda key: (with_interval(found, f"{key}consistency{end}") for end in ("_plain", ""))
    )


@table
def quality_titles() -> Rows:
    found = figures("quality")
    rows = [["query", "candidates", "measure", f"UniMuR-mini, {found['seeds']:.0f} trainings", "CLIP-T"]]
    for words, candidates, ours, theirs in (
        ("title of an image", "619 images", "unimur_title_image_r10", "clip_title_image_r10"),
        ("WordNet gloss without the title, 59", "59 titles", "gloss_title_r1", "clip_gloss_title_r1"),
        ("the same", "619 images", "gloss_image_r10", "clip_gloss_image_r10"),
    ):
        measure = f"recall@{ours.rpartition('_r')[2]}"
        rows.append([words, candidates, measure, with_interval(found, ours), with_interval(found, theirs)])
    return rows


_MEASURES = {
    "title_image_r10": "title → image",
    "title_title_r10": "title → title",
    "gloss_title_r10": "gloss → word",
    "dialogue_text_r10": "dialogue → reply",
    "dialogue_image_r10": "dialogue → image",
    "consistency": "consistency",
    "image_rate": "image rate",
}


def _ablation(name: str, title: str, arms: dict[str, str]) -> Rows:
    """Mean and deviation over the seeds of each arm; differences of arms, `{ours} - {theirs}`, where it has any."""
    found = results(name)

    def cells(arm: str) -> Iterable[str]:
        if " - " not in arm:
            means = (found["arms"][arm][key] for key in _MEASURES)
            return (f"{number(one['mean'])} ± {number(one['std'])}" for one in means)
        differences = (found["difference"].get(f"{arm}, {key}") for key in _MEASURES)
        return (interval(one, mean=False) if one else "" for one in differences)

    return rows_of([f"{title}, {found['seeds']} seeds", *_MEASURES.values()], arms, cells)


@table
def ablation_losses() -> Rows:
    arms = {
        "visual": "visual matching alone (FROMAGe's alignment)",
        "textual": "textual matching alone",
        "both": "both (UniMuR)",
        "both - visual": f"both {MINUS} visual, 95 % interval",
        "both - textual": f"both {MINUS} textual, 95 % interval",
    }
    return _ablation("ablation_losses", "trained on", arms)


@table
def ablation_hard_negatives() -> Rows:
    arms = {
        "in-batch": "the candidates of its batches alone",
        "hard negatives": "one hard negative of each modality beside them",
        "hard negatives - in-batch": "difference, 95 % interval",
    }
    return _ablation("ablation_hard_negatives", "second stage", arms)


@table
def ablation_readout() -> Rows:
    arms = {
        "prompt, layers 15 22 last, 1 [RET]": "prompt; layers 15, 22 and last; one [RET]",
        "last layer": "the last layer alone",
        "layers 8 15 22 last": "layers 8, 15, 22 and last",
        "4 [RET]": "four [RET]",
        "titles alone": "titles alone as contexts",
        "a fifth with another pair before": "another pair before a fifth of the titles",
        "no prompt": "no prompt",
    }
    return _ablation("ablation_readout", "read and trained on", arms)


@table
def readout_states() -> Rows:
    found = figures("readout_states")
    names = {
        "last": "the last layer",
        "15_22_last": "layers 15, 22 and last",
        "8_15_20_26_last": "**layers 8, 15, 20, 26 and last (the mini's)**",
        "nine_layers": "nine layers",
        "15_22_last_and_mean_8_15": "15, 22 and last; means of 8 and 15",
        "8_15_20_26_last_and_mean_8_15_22": "8, 15, 20, 26 and last; means of 8, 15 and 22",
        "means_8_15_22_alone": "means of 8, 15 and 22 alone",
    }
    tasks = [name for key, name in _MEASURES.items() if key.endswith("_r10")]

    def cells(key: str) -> list[str]:
        measured = [recalls(found, f"{key}.{task}", (1, 10)) for task in _CONTEXTS]
        return [*measured, f"{found[f'{key}.parameters']:,.0f}"]

    return rows_of(["read, recall at 1 / 10", *tasks, "thousand parameters"], names, cells)


@table
def adapt() -> Rows:
    found = figures("adapt")
    contexts = {
        "dialogue_to_text": "dialogue around a text of the index → it",
        "built_dialogue_to_text": "WordNet dialogue → text",
        "gloss_to_title": "gloss → title",
        "questions_to_text": "dialogue of five to ten questions (not trained on) → text",
    }

    def cells(key: str) -> list[str]:
        sizes = [f"{found[f'{key}_{of}']:,.0f}" for of in ("queries", "candidates")]
        return [*sizes, *(number(found[f"{key}_r1_{which}"]) for which in ("sharpened", "encoder", "anchored"))]

    header = ["context → answer, recall@1", "queries", "candidates", "heads alone", "encoder alone", "both"]
    return rows_of(header, contexts, cells)


# -- the small dual encoder -------------------------------------------------------------------------------------------
@table
def photographs() -> Rows:
    found = figures("photographs")
    heads = {
        "_trained_alone": "trained on clip art, emoji and stamps",
        "_classifier_alone": "the classifier alone (ConSE over names and glosses; nothing is trained)",
        "": "**both, with the gate**",
    }
    rows = [["image head of `clip-lite2-minilm`", "caption → photograph, among 184", "title → clip art, among 619"]]
    for key, name in heads.items():
        cells = [recalls(found, f"{kind}{key}") for kind in ("photos", "clip_title_image")]
        rows.append([name, *(bold(cells) if not key else cells)])
    return rows


_AT = ("", "R@1", "R@5", "R@10")


@table
def clip_titles() -> Rows:
    card, found = results("card:clip-lite2-minilm"), figures("photographs")
    ranks = (1, 5, 10)

    def seed(part: str) -> list[str]:
        return [number(card[part][f"title_image_r{rank}"]) for rank in ranks]

    def three(task: str) -> list[str]:
        return [interval(card["test_three_seeds"][f"{task}_r{rank}"]) for rank in ranks]

    return [
        list(_AT),
        ["title → image, before training", *seed("test_untrained")],
        ["**title → image, 3 seeds**", *three("title_image")],
        ["the same, without the gate", *(number(found[f"clip_title_image_trained_alone_r{r}"]) for r in ranks)],
        ["the same, the classifier alone", *(number(found[f"clip_title_image_classifier_alone_r{r}"]) for r in ranks)],
        ["title → image, these weights", *seed("test")],
        ["the same, only a title's own image is right", *seed("test_own")],
        ["the same, near-duplicates are right too", *seed("test_twins")],
        ["image → title, 3 seeds", *three("image_title")],
    ]


@table
def clip_photographs() -> Rows:
    found = figures("photographs")
    heads = {
        "": "**caption → photograph**",
        "_classifier_alone": "the classifier alone",
        "_trained_alone": "without the gate",
    }
    return rows_of(list(_AT), heads, lambda key: (with_interval(found, f"photos{key}_r{rank}") for rank in (1, 5, 10)))


# -- UniVL-DR ---------------------------------------------------------------------------------------------------------
_LADDER = {
    "BM25": "BM25 over texts and captions",
    "zero-shot": "zero-shot",
    "zero-shot, plain sum": "zero-shot, the paper's plain sum",
    "BM25 & zero-shot": "BM25 & zero-shot, joined",
    "in-batch": "in-batch",
    "BM25 & in-batch, oracle modality": "BM25 & in-batch, oracle modality",
    "+ hard negatives, unbalanced": "+ hard negatives, unbalanced",
    "+ hard negatives, balanced": "**+ hard negatives, balanced**",
    "balanced, oracle modality": "balanced, oracle modality",
    "balanced + BM25 (hybrid)": "balanced + BM25 (hybrid)",
    "hybrid + second stage": "hybrid, its first 20 by token vectors",
    "hybrid + weighted second stage": "hybrid, its first 20 by both scores",
    "+ verbalization": "+ verbalization (words read by Tesseract)",
}
_COLUMNS = ("ndcg@10", "recall@20", "recall@100")


def _ladder_cells(row: dict) -> list[str]:
    alone = [number(row[kind]["mrr@10"]["mean"]) for kind in ("text", "image")]
    return [interval(row["both"]["mrr@10"]), *(number(row["both"][key]["mean"]) for key in _COLUMNS), *alone]


def _ladder(corpus: str, names: dict[str, str]) -> Rows:
    systems = results("univl_dr_ladder")["corpora"][corpus]["systems"]
    header = ["", "MRR@10", "NDCG@10", "recall@20", "recall@100", "texts alone, MRR@10", "images alone"]
    rows = [[*header, "% images among the first ten"]]
    for key, name in names.items():
        if key in systems:
            row = systems[key]
            runs = f", {row['runs']} seeds" if row["runs"] > 1 else ""
            rows.append([name + runs, *_ladder_cells(row), number(row["image_share"]["all"]["returned"], 0)])
    return rows


table(_ladder, "ladder_gimp_manual", "gimp_manual", _LADDER)
table(_ladder, "ladder_image_dictionary", "image_dictionary", {k: _LADDER[k] for k in _LADDER if "hybrid" not in k})

_MANUALS = {
    "gimp_manual": "GIMP",
    "gnucash_manual": "GnuCash",
    "debian_handbook": "Debian handbook",
    "scikit_learn_guide": "scikit-learn guide (never trained on)",
}
_MODELS = {
    "bm25": "BM25",
    "untrained": "dual encoder, untrained",
    "gimp_only": "trained on GIMP alone, 64 tokens",
    "release": "**UniVL-DR-mini**",
}


@table
def manuals() -> Rows:
    found = figures("manuals")
    rows = [["MRR@10", *_MANUALS.values(), "mean"]]
    for key, name in _MODELS.items():
        for end, words in (("", name), ("_hybrid", f"{name} + BM25")):
            known = {corpus for corpus in _MANUALS if f"{corpus}_{key}{end}" in found}
            cells = [with_interval(found, f"{one}_{key}{end}") if one in known else "" for one in _MANUALS]
            if known:
                rows.append([words, *cells, number(found[f"mean_{key}{end}"]) if known == set(_MANUALS) else ""])
    return rows


_TRIALS = {
    "untrained": "untrained",
    "release": "**questions alone (the release)**",
    "generated": "+ generated questions that pass the round trip",
    "kl_start": "+ distillation (KL) of the untrained model's scores",
    "hard_kl": "hard negatives in the batch, distillation of the untrained model + BM25",
    "matryoshka": "Matryoshka training, all 384 numbers",
}


@table
def univl_dr_trials() -> Rows:
    found = figures("univl_dr_trials")

    def cells(key: str) -> list[str]:
        dev, over = f"scikit_learn_guide_{key}_all", f"scikit_learn_guide_{key}_all_over_release"
        means = [number(found[at]) if (at := f"{one}_{key}") in found else "" for one in _MANUALS]
        return [*means, number(found[dev]), with_interval(found, over) if over in found else ""]

    header = ["MRR@10", *_MANUALS.values(), "the same, all 713 questions", "all 713, minus the release"]
    return rows_of(header, _TRIALS, cells)


@table
def matryoshka() -> Rows:
    found, dims = figures("univl_dr_trials"), ("64", "128", "192", "256", "")
    names = {"untrained": "untrained", "release": "**the release**", "matryoshka": "trained with `matryoshka_dims`"}
    ends = [f"_{dim}" if dim else "" for dim in dims]
    header = ["MRR@10 by the first numbers of a vector", *dims[:-1], "384"]
    return rows_of(header, names, lambda key: (number(found[f"scikit_learn_guide_{key}{end}"]) for end in ends))


_WEBQA = {"texts": "text", "images": "image", "one ranking": "both"}
_STAGES = {
    "bm25": "BM25",
    "dense": "UniVL-DR-mini",
    "joined": "BM25 for texts & UniVL-DR-mini for images, joined",
    "joined_oracle": "the same, oracle modality",
    "dense_oracle": "UniVL-DR-mini, oracle modality",
    "hybrid": "hybrid",
    "context": "UniVL-DR-mini, figures in context",
    "context_hybrid": "**hybrid, figures in context**",
    "second_stage": "its first 20 in the order of the second stage",
    "weighted": "its first 20 by the sum of both scores",
}


def _stages() -> tuple[dict[str, float], dict[str, str]]:
    found = figures("manual_stages")
    return found, {corpus: name for corpus, name in _MANUALS.items() if f"{corpus}_context_hybrid" in found}


@table
def manual_stages() -> Rows:
    found, corpora = _stages()

    def cells(key: str) -> Iterable[str]:
        for one in corpora:
            yield from (with_interval(found, f"{one}_{key}"), number(found[f"{one}_{key}_images"], 0))

    rows = rows_of(
        ["", *(f"{name}, {what}" for name in corpora.values() for what in ("MRR@10", "% images"))], _STAGES, cells
    )
    shares = [("", number(found[f"{one}_relevant_images"], 0)) for one in corpora]
    return [*rows, ["(of the relevant documents)", *(cell for pair in shares for cell in pair)]]


@table
def manual_stages_differences() -> Rows:
    found, corpora = _stages()
    pairs = {
        "hybrid_over_bm25": f"hybrid {MINUS} BM25",
        "hybrid_over_dense": f"hybrid {MINUS} UniVL-DR-mini",
        "hybrid_over_joined": f"hybrid {MINUS} joined",
        "context_hybrid_over_bm25": f"hybrid in context {MINUS} BM25",
        "context_hybrid_over_dense": f"hybrid in context {MINUS} UniVL-DR-mini",
        "context_hybrid_over_context": f"hybrid in context {MINUS} UniVL-DR-mini in context",
        "context_hybrid_over_hybrid": f"hybrid in context {MINUS} hybrid",
        "second_stage_over_context_hybrid": f"second stage {MINUS} hybrid in context",
        "weighted_over_context_hybrid": f"sum of both {MINUS} hybrid in context",
    }
    header = ["MRR@10, difference in points", *corpora.values()]
    return rows_of(header, pairs, lambda key: (with_interval(found, f"{one}_{key}") for one in corpora))


@table
def webqa_settings() -> Rows:
    found = figures("webqa_settings")

    def cells(setting: str) -> list[str]:
        means = [number(found[f"{setting}_{key}_{kind}"]) for key in ("bm25", "model") for kind in _WEBQA.values()]
        return [f"{found[f'{setting}_documents']:.0f}", *means]

    header = ["setting", "documents", *(f"{name}, {kind}" for name in ("BM25", "UniVL-DR-mini") for kind in _WEBQA)]
    return rows_of(header, {setting: f"`{setting}`" for setting in ("merged", "released")}, cells)


@table
def manuals_differences() -> Rows:
    found = figures("manuals")
    pairs = {"release_over_untrained": "UniVL-DR-mini", "release_hybrid_over_untrained_hybrid": "the same, with BM25"}
    header = ["MRR@10, minus the untrained dual encoder", *_MANUALS.values()]
    return rows_of(header, pairs, lambda key: (with_interval(found, f"{corpus}_{key}") for corpus in _MANUALS))


@table
def ladder_differences() -> Rows:
    corpora = results("univl_dr_ladder")["corpora"]
    short = {
        "+ hard negatives, balanced": "balanced",
        "+ hard negatives, unbalanced": "unbalanced",
        "balanced + BM25 (hybrid)": "hybrid",
        "hybrid + second stage": "first 20 by token vectors",
        "hybrid + weighted second stage": "first 20 by both scores",
        "+ verbalization": "verbalization",
    }
    names = {"gimp_manual": "GIMP manual", "image_dictionary": "image dictionary"}
    rows = [["MRR@10, difference in points", *names.values()]]
    for pair in corpora["gimp_manual"]["differences"]:
        found = [corpora[corpus]["differences"].get(pair) for corpus in names]
        ours, theirs = (short.get(one, one) for one in pair.split(" - "))
        rows.append([f"{ours} {MINUS} {theirs}", *(interval(one) if one else "" for one in found)])
    return rows


# -- indexes and training steps ---------------------------------------------------------------------------------------
_INDEXES = {
    "exact": "`Flat`",
    "ann": "`HNSW32`, `ef_search` 48",
    "ann_ef_search32": "the same, 32",
    "ann_ef_search64": "the same, 64",
    "ann_ef_search128": "the same, 128",
    "ivfsq8": "`IVF4096,SQ8`, `nprobe` 16",
    "ivfsq8_nprobe4": "the same, 4",
    "ivfsq8_nprobe64": "the same, 64",
    "ivfpq": "`IVF4096,PQ48`, `nprobe` 16",
    "ivfpq_whole": "`IVF4096,PQ48,RFlat`, `nprobe` 16",
    "milvus": "Milvus, `Flat`",
    "milvus_ann": "Milvus, `HNSW32`",
    "milvus_ivfpq": "Milvus, `IVF4096,PQ48`",
    "milvus_ivfsq8": "Milvus, `IVF4096,SQ8`",
}


def _index_rows(name: str, *kinds: str) -> Rows:
    found = figures(name)

    def cells(key: str) -> list[str]:
        times = [two_digits(found[f"{key}_microseconds_b{batch}"] / 1000) for batch in (1, 64)]
        built = [found.get(f"{key}_build_seconds"), found[f"{key}_mib"] / 1024 if f"{key}_mib" in found else None]
        return [
            f"{found[f'{key}_recall_at_10']:.3f}",
            *times,
            *("" if one is None else two_digits(one) for one in built),
        ]

    header = ["index", "recall@10", "one query, ms", "a query of 64, ms", "build, s", "memory with payloads, GiB"]
    return rows_of(header, {key: _INDEXES[key] for key in kinds or _INDEXES if f"{key}_recall_at_10" in found}, cells)


table(_index_rows, "index_1m", "index")
table(_index_rows, "index_10m", "index_10m", "ivfsq8", "ivfsq8_nprobe4", "ivfpq")
table(_index_rows, "index_milvus", "index_milvus", "exact", "ann", *(key for key in _INDEXES if "milvus" in key))


def _small_rows(name: str) -> Rows:
    """Precisions and widths; milliseconds where they were measured."""
    found = figures(name)
    times = [size for size in (1, 64) if f"int8_microseconds_b{size}" in found]
    rows = [["precision", "numbers", "recall@10", "bytes in memory", "bytes mapped"]]
    rows[0] += [{1: "one query, ms", 64: "a query of 64, ms"}[size] for size in times]
    for key in [key.removesuffix("_mapped_bytes") for key in found if key.endswith("_mapped_bytes")]:
        precision, _, dim = key.partition("_dim")
        sizes = [f"{found[f'{key}_{which}']:.0f}" for which in ("bytes", "mapped_bytes")]
        cells = [f"`{precision}`", dim or "all", f"{found[f'{key}_recall_at_10']:.3f}", *sizes]
        rows.append([*cells, *(two_digits(found[f"{key}_microseconds_b{size}"] / 1000) for size in times)])
    return rows


table(_small_rows, "index_small", "index_small")
table(_small_rows, "index_small_1m", "index_small_1m")


@table
def hybrid() -> Rows:
    found = figures("hybrid")
    weights = f"weight {found['weight']:g}; {found['weight_grade1']:g}, chosen on validation questions"
    names = {"bm25": "BM25 alone", "vectors": "vectors alone", "hybrid": weights, "rrf": "reciprocal rank fusion"}
    counted = ("section or image itself", "its parts and siblings too")
    header = [f"{found['test_questions']:.0f} test questions"]
    header += [f"{measure}, {what}" for what in counted for measure in ("MRR@10", "recall@10")]
    ends = [(measure, end) for end in ("", "_grade1") for measure in ("mrr10", "recall10")]
    return rows_of(header, names, lambda name: (number(found[f"{measure}_{name}{end}"]) for measure, end in ends))


@table
def second_stage() -> Rows:
    found = figures("second_stage")
    rows = [[f"{found['test_questions']:.0f} test questions", "MRR@10", "difference", "recall@10", "ms a question"]]
    rows.append(["reciprocal rank fusion", number(found["mrr10_rrf"]), "", number(found["recall10_rrf"]), ""])
    for name in (key.removesuffix("_over_rrf") for key in found if key.endswith("_over_rrf")):
        mean, low, high = (number(found[f"{name}_over_rrf{end}"]) for end in ("", "_low", "_high"))
        cells = [number(found[f"mrr10_{name}"]), f"{mean} ({low} … {high})", number(found[f"recall10_{name}"])]
        rows.append([f"its first {found['rerank_top_k']:.0f} by {name}", *cells, number(found[f"{name}_ms"], 0)])
    return rows


@table
def training_step() -> Rows:
    found = figures("training_step")
    steps = {
        "forward": "forward pass of the language model, no gradients",
        "plain_step": "FROMAGe's step written out: everything in the graph, all logits; cached targets",
        "plain_step_computing_targets": "the same, computing its targets",
        "retrieval_step": "**ours**",
        "retrieval_step_bf16": "ours, frozen language model in bfloat16",
        "retrieval_step_kept": "ours, cached prefixes",
        "plain_caption_step": "FROMAGe's caption step",
        "caption_step": "**our caption step**",
    }
    reference = {"retrieval_step": "plain_step", "caption_step": "plain_caption_step"}
    rows = [["step", "seconds", "MiB", "faster than FROMAGe's"]]
    for key, name in steps.items():
        seconds = found[f"{key}_seconds"]
        other = next((one for kind, one in reference.items() if key.startswith(kind)), None)
        faster = number(found[f"{other}_seconds"] / seconds) if other else ""
        rows.append([name, f"{seconds:.2f}", f"{found[f'{key}_mib']:,.0f}", faster])
    return rows


@table
def training_step_growth() -> Rows:
    found = figures("training_step_growth")
    header = ["batch x tokens", "forward, s", "ours, s", "plain, s", "ours / forward", "plain / ours"]
    rows = [[*header, "ours, MiB", "plain, MiB"]]
    for batch, tokens in ((32, 24), (32, 128), (32, 512), (128, 24), (512, 24)):
        at = f"_batch{batch}_tokens{tokens}"
        plain = f"plain_step_seconds{at}" in found
        rows.append(
            [
                f"{batch} x {tokens}",
                two_digits(found[f"forward_seconds{at}"]),
                two_digits(found[f"retrieval_step_seconds{at}"]),
                two_digits(found[f"plain_step_seconds{at}"]) if plain else "out of memory",
                f"{found[f'retrieval_step_over_forward{at}']:.2f}",
                number(found[f"retrieval_speedup_over_plain{at}"]) if plain else "",
                f"{found[f'retrieval_step_mib{at}']:,.0f}",
                f"{found[f'plain_step_mib{at}']:,.0f}" if plain else "over 20,000",
            ]
        )
    return rows


# -- the hand-written dialogues ---------------------------------------------------------------------------------------
_KINDS = {
    "description": "described by its look, its behaviour or its purpose",
    "question-answer": "the dialogue asks for it",
    "statement": "nobody asks: the image is the natural answer",
    "correction": "somebody guesses wrong and is corrected",
    "picture-in-context": 'an image that was shown before is needed or compared with: "like this one, but ..."',
    "topic-switch": "it begins with another topic; what the first turns are about is wrong",
}


def _counts(key: Callable[[dict], object]) -> list[Counter]:
    """Of dev and of test."""
    found = []
    for part in ("dev", "test"):
        lines = (DIALOGUES / f"dialogues_{part}.jsonl").read_text(encoding="utf-8").split("\n")
        found.append(Counter(key(json.loads(line)) for line in lines if line))
    return found


@table
def dialogue_kinds() -> Rows:
    counts = _counts(lambda record: record["kind"])
    rows = [[f"`{kind}`", words, *(str(part[kind]) for part in counts)] for kind, words in _KINDS.items()]
    return [["kind", "meaning", "dev", "test"], *rows]


@table
def dialogue_turns() -> Rows:
    dev, test = _counts(lambda record: len(record["turns"]))
    return [
        ["turns", "dev", "test"],
        *([str(turns), str(dev[turns]), str(test[turns])] for turns in sorted(dev | test)),
    ]


# -- metadata of the cards --------------------------------------------------------------------------------------------
# Of each card: context -> candidates, the data and what they are called, the figure in its results, the cut-offs.
_CLAIMS = {
    "clip-lite2-minilm": """
        title -> image | test-split-619-pictures: test split, 619 images | title_image_r{} | 1 5 10
    """,
    "unimur-mini": """
        title -> image | test-split-619-pictures: test split, 619 images | title_image_r{} | 1 10
        title -> title | test-split-619-titles: test split, 619 titles | title_title_r{} | 1
        gloss -> word | wordnet-500-unseen-words: WordNet, 500 unseen words | gloss_title_r{} | 1
        dialogue -> text | built-dialogues-500-answers: built dialogues, 500 answers | dialogue_text_r{} | 1
        dialogue -> image | built-dialogues-619-pictures: built dialogues, 619 images | dialogue_image_r{} | 1 10
    """,
    "univl-dr-mini": """
        gimp-manual-252-questions: GIMP manual, 252 test questions, 6,807 documents | gimp_manual {} | mrr@10
        gnucash-manual-198-questions: GnuCash manual, 198 test questions, 2,026 documents | gnucash_manual {} | mrr@10
        debian-handbook-296-questions: Debian handbook, 296 questions, 2,009 documents | debian_handbook {} | mrr@10
        scikit-learn-guide-475-questions: scikit-learn guide, never trained on, 475 questions, 1,624 documents \
            | scikit_learn_guide {} | mrr@10
    """,
}


def _claims(card: str) -> str:
    """The `results` of a card's `model-index`."""
    measured, lines = results(f"card:{card}")["test"], []
    for claim in _CLAIMS[card].strip().splitlines():
        *task, data, key, ranks = (part.strip() for part in claim.split("|"))
        kind, name = data.split(": ", 1)
        for rank in ranks.split():
            title = f"recall@{rank}" if rank.isdigit() else rank
            lines += [
                f"  - task: {{type: retrieval, name: '{task[0] if task else 'question -> passages and figures'}'}}",
                f"    dataset: {{type: {kind}, name: '{name}'}}",
                f"    metrics: [{{type: {title.replace('@', '-')}, name: {title}, "
                f"value: {round(measured[key.format(rank)], 1)}}}]",
            ]
    return "\n".join(lines) + "\n"


for _card in _CLAIMS:
    TABLES[f"results-of-{_card}"] = lambda card=_card: _claims(card)


# -- pages ------------------------------------------------------------------------------------------------------------
def rewritten(text: str) -> str:
    """A page with every marked table as the results give it.

    Raises:
        ValueError: it marks a table that does not exist.
    """

    def replace(found: re.Match) -> str:
        name = found["name"] or found["name2"]
        if name not in TABLES:
            raise ValueError(f"There is no table {name!r}: choose from {', '.join(sorted(TABLES))}.")
        return (found["begin"] or found["begin2"]) + TABLES[name]() + (found["end"] or found["end2"])

    return _MARKED.sub(replace, text)


def marked(text: str) -> set[str]:
    """Names of the tables that a page marks."""
    return {found["name"] or found["name2"] for found in _MARKED.finditer(text)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where a page would change")
    check = parser.parse_args().check
    changed = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        new = rewritten(text)
        if new != text:
            changed.append(page.relative_to(ROOT).as_posix())
            if not check:
                page.write_text(new, encoding="utf-8")
    print("\n".join(changed) or "Nothing changes.")
    sys.exit(bool(check and changed))


if __name__ == "__main__":
    main()
