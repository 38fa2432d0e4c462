"""`unimur reproduce`: a paper's training and protocols in one go, and its published figures beside ours."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..data.atomic_files import write_json
from .arguments import positive_integer
from .errors import CommandError

if TYPE_CHECKING:
    from ..training.recipes import Recipe

_RECIPES = {
    "unimur": ("unimur_opt6.7b_clip_l14_cc3m", "fromage_opt6.7b_cc3m"),  # the paper's gains are over the second
    "univl-dr": ("univl_dr_webqa",),
}
_TASKS = {"unimur": "unimur", "univl-dr": "univl_dr"}
_STEPS = "steps.json"
_CC3M = {"cc3m": "cc3m_train.tsv", "cc3m_validation": "cc3m_val.tsv", "cc3m_test": "cc3m_test.tsv"}
# Tasks on one folder, with the form in which FROMAGe writes VisDial.
_EVALUATIONS = {
    "mmdialog": ("mmdialog", []),
    "mmdialog-images": ("mmdialog", []),
    "visdial": ("visdial", ["--form", "fromage", "--rounds", "0"]),
}


@dataclass
class Step:
    """One command of `unimur`: its arguments, its output folder, and the file that it writes last."""

    name: str
    words: list[str]
    output: Path
    last: str = "results.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `unimur reproduce`."""
    parser.add_argument("paper", choices=sorted(_RECIPES), help="the paper")
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="PATH",
        help="unimur: a folder with cc3m/ (cc3m_train.tsv, cc3m_val.tsv and the images) and mmdialog/ or visdial/ or "
        "both; univl-dr: UniVL-DR's data.zip, or the folder of WebQA, M-BEIR or a retrieval set",
    )
    parser.add_argument(
        "--recipe", action="append", default=[], metavar="FILE",
        help="recipe in place of the paper's; a second one is what gains are measured against",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="SECTION.FIELD=VALUE",
        help="override a value of each recipe, such as training.max_steps=100; may be repeated",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="default: runs/reproduce_PAPER")
    parser.add_argument("--limit", type=positive_integer, metavar="N", help="evaluate only the first N dialogues")
    parser.add_argument("--dry-run", action="store_true", help="print the cost and the commands, and run nothing")


def run(args: argparse.Namespace) -> int:
    """Prints the cost, runs each step that is not finished, and writes `table.md` with the published figures."""
    if not args.data.exists():
        raise CommandError(f"there is no {args.data}: --data takes {_layout(args.paper)}")
    output = args.output or Path("runs") / f"reproduce_{args.paper}"
    recipes = [Path(name) for name in args.recipe] or [_own_recipe(name) for name in _RECIPES[args.paper]]
    if len({path.stem for path in recipes}) < len(recipes) or len(recipes) > 2:
        raise CommandError("--recipe: at most two recipes, with different names")
    from ..training.recipes import load_recipe

    for path in recipes:
        if (task := load_recipe(path, args.overrides).task) != _TASKS[args.paper]:
            raise CommandError(f"{path} is a recipe of task {task}, not of {_TASKS[args.paper]}")
    trainings, evaluations, models = (_univl_dr if args.paper == "univl-dr" else _unimur)(args, recipes, output)
    for step in trainings:
        _tell_cost(step)
    steps = [*trainings, *evaluations]
    print("\n".join(["Steps:", *(f"  unimur {shlex.join(step.words)}" for step in steps)]), flush=True)
    if args.dry_run:
        return 0
    _run_steps(steps, output)
    from ..evaluation.published import comparison
    from ..evaluation.report import load_result

    found = {step.name: load_result(step.output) for step in evaluations}
    text = comparison(args.paper, found, models)
    (output / "table.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nWritten to {output / 'table.md'}")
    return 0


def _layout(paper: str) -> str:
    return "WebQA" if paper == "univl-dr" else "a folder with cc3m/ and mmdialog/ or visdial/"


def _own_recipe(name: str) -> Path:
    path = Path(__file__).resolve().parents[2] / "recipes" / f"{name}.yaml"
    if not path.is_file():
        raise CommandError(
            f"the recipe {name}.yaml is part of the source, not of the installed package: name --recipe"
        )
    return path


def _train(recipe: Path, output: Path, overrides: list[str]) -> Step:
    words = ["train", str(recipe), *overrides, f"training.output_dir={output}", "--resume"]
    return Step(output.name, words, output, "model.safetensors")


def _unimur(args: argparse.Namespace, recipes: list[Path], output: Path) -> tuple[list[Step], list[Step], list[str]]:
    cc3m = {name: args.data / "cc3m" / file for name, file in _CC3M.items()}
    sources = [f"{name}={path}" for name, path in cc3m.items() if path.is_file()]
    own = any(override.startswith("data.sources=") for override in args.overrides)
    if not cc3m["cc3m"].is_file() and not own:
        raise CommandError(f"there is no {cc3m['cc3m']}: --data takes {_layout(args.paper)}")
    overrides = [*([] if own else [f"data.sources={json.dumps(sources)}"]), *args.overrides]
    trainings = [_train(recipe, output / recipe.stem, overrides) for recipe in recipes]
    models = [word for step in trainings for word in ("--model", str(step.output))]
    asked = [*models, *([] if args.limit is None else ["--limit", str(args.limit)])]
    evaluations = [
        Step(
            task,
            ["evaluate", task, "--data", str(args.data / folder), *asked, *further, "--output", str(output / task)],
            output / task,
        )
        for task, (folder, further) in _EVALUATIONS.items()
        if (args.data / folder).is_dir()
    ]  # fmt: skip
    if not evaluations:
        raise CommandError(f"{args.data} has neither mmdialog/ nor visdial/: there is nothing to evaluate on")
    return trainings, evaluations, [step.name for step in trainings]


def _univl_dr(args: argparse.Namespace, recipes: list[Path], output: Path) -> tuple[list[Step], list[Step], list[str]]:
    from ..data.webqa.load import webqa_layout

    if len(recipes) > 1 or args.limit is not None:
        raise CommandError("univl-dr takes one recipe and no --limit: its index is one of all documents")
    if (args.data / "corpus-corpus.parquet").is_file():
        source, further, setting = f"folder={args.data}", ["data.captions=raw", "data.stage2_captions=raw"], []
        further.append("data.deduplicate=null")
    elif webqa_layout(args.data) == "released":
        source, further, setting = f"webqa={args.data}", [], ["--setting", "released"]
    else:  # only UniVL-DR's own files have verbalized captions
        source, further = f"webqa={args.data}", ["data.stage2_captions=raw"]
        setting = ["--captions", "raw", "--deduplicate", "none"]
    training = _train(recipes[0], output / recipes[0].stem, [f"data.retrieval={source}", *further, *args.overrides])
    models = [str(training.output / "stage1"), str(training.output)]
    words = ["evaluate", "webqa", "--data", str(args.data), *(word for name in models for word in ("--model", name))]
    step = Step("webqa", [*words, *setting, "--output", str(output / "webqa")], output / "webqa")
    return [training], [step], [Path(name).name for name in models[::-1]]


def _tell_cost(step: Step) -> None:
    """Prints what a training costs, or why that cannot be said."""
    import torch

    from ..training.cost import estimate_cost, matrix_speed
    from ..training.recipes import load_recipe

    recipe = load_recipe(step.words[1], step.words[2:-1])
    half = recipe.training.bf16 or recipe.training.fp16
    try:
        lines = estimate_cost(recipe, _rows(recipe)).lines(matrix_speed(torch.bfloat16 if half else torch.float32))
    except ValueError as error:
        lines = [f"cost: {error}"]
    print("\n".join([f"{step.name}:", *(f"  {line}" for line in lines)]), flush=True)


def _rows(recipe: Recipe) -> int | None:
    """Captioned images or training queries; None where only the run itself counts them."""
    if recipe.task == "univl_dr":
        if recipe.training.max_steps >= 0:
            return None
        from ..data.registry import load_retrieval_set

        data = recipe.data
        queries = load_retrieval_set(data.retrieval, data.captions, data.deduplicate).queries
        return sum(len(queries[split]) for split in data.train_splits)
    path = Path(recipe.data.sources[0].partition("=")[2])
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return sum(1 for _ in file)


def _run_steps(steps: list[Step], output: Path) -> None:
    """Runs what is not finished. A finished step is noted with its arguments, which have to be the same later."""
    from .main import main

    noted = output / _STEPS
    done = json.loads(noted.read_text(encoding="utf-8")) if noted.is_file() else {}
    for step in steps:
        if done.get(step.name, step.words) != step.words:
            raise CommandError(
                f"{step.output} was made by `unimur {shlex.join(done[step.name])}`: name another --output"
            )
    for step in steps:
        if step.name in done and (step.output / step.last).is_file():
            print(f"{step.name} is finished: {step.output}", flush=True)
            continue
        status = main(["--debug", *step.words] if "--debug" in sys.argv else step.words)
        if status:
            raise CommandError(f"{step.name} failed; the same command continues from here")
        done[step.name] = step.words
        write_json(noted, done)
