"""`unimur evaluate`: the papers' protocols."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from .arguments import add_backbones, add_trust, chosen_backbones
from .compared_systems import SYSTEMS, add_systems, open_systems, require_folder, show_and_save
from .errors import CommandError
from .retriever import chosen_systems, model_source

# The linear map needs text to be fitted on, which takes packages and minutes.
_DEFAULT = tuple(name for name in SYSTEMS if name != "clip-linear")
_TABLE = "table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `unimur evaluate`."""
    from ..evaluation.tasks import TASKS, TaskOptions

    width = max(map(len, TASKS)) + 2
    lines = [f"{name:<{width}}{task.summary}\n{'':<{width}}data: {task.data}" for name, task in TASKS.items()]
    lines.append(f"{_TABLE:<{width}}one table out of the output folders of many runs (--runs)")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "tasks:\n" + "\n".join(f"  {line}" for part in lines for line in part.split("\n"))
    parser.add_argument("task", metavar="TASK", help="one of the tasks below")
    parser.add_argument("--data", metavar="PATH", help="path of the data set, see below")
    parser.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help="a folder or a Hub id; repeat it for several models, such as ablations or a converted FROMAGe "
        "(default: the mini that `make demo` builds)",
    )
    add_backbones(parser)
    add_trust(parser)
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="folder for results and finished batches")
    add_systems(parser, _DEFAULT, SYSTEMS, "; CLIP is that of the first model")
    for option in dataclasses.fields(TaskOptions):
        argument = dict(option.metadata)
        flag = argument.pop("flag", f"--{option.name.replace('_', '-')}")
        default = [] if argument.get("action") == "append" else option.default
        parser.add_argument(flag, dest=option.name, default=default, **argument)
    parser.add_argument(
        "--card", type=Path, metavar="FILE", help="model card to update with the metrics of the first model"
    )
    parser.add_argument("--runs", nargs="+", metavar="FOLDER", help="output folders of runs, for the table")


def run(args: argparse.Namespace) -> int:
    """Runs a task, prints its table and writes the results; or makes one table out of several."""
    from ..evaluation.tasks import TASKS, TaskOptions

    require_folder(args.output)
    if args.task == _TABLE:
        return _merge(args)
    if args.task not in TASKS:
        raise CommandError(f"unknown task {args.task!r}: choose from {', '.join([*TASKS, _TABLE])}")
    if args.data is None:
        raise CommandError(f"--data PATH is missing: {TASKS[args.task].data}")
    if args.output is None:
        raise CommandError("--output FOLDER is missing: results and finished batches go there")
    options = TaskOptions(**{option.name: getattr(args, option.name) for option in dataclasses.fields(TaskOptions)})
    chosen = chosen_systems(args.systems, SYSTEMS)
    if TASKS[args.task].takes == "models" and not args.model:
        raise CommandError(f"--model MODEL is missing: {args.task} needs one of its own kind")
    sources = [model_source(name) for name in (args.model or [None])]
    if chosen_backbones(args) and TASKS[args.task].takes == "models":
        raise CommandError(
            f"--language-model and --clip are not for {args.task}, whose models hold their whole encoder"
        )
    if args.card is not None and not args.card.exists():
        raise CommandError(f"there is no model card {args.card}")

    from ..evaluation.tasks import task_function

    left_out: dict[str, str] = {}
    compared: list = sources
    if TASKS[args.task].takes == "systems":
        compared, left_out = open_systems(chosen, sources, args)
    found = task_function(args.task)(args.data, compared, options, args.output / "batches")
    show_and_save(found, args.output, left_out)
    if args.card is not None:
        from ..evaluation.model_index import read_record, write_model_index

        first = next(iter(found.systems))  # models come before what they are compared with
        count = write_model_index(args.card, read_record(args.output), first)
        print(f"{count} figures of {first} written into {args.card}")
    return 0


def _merge(args: argparse.Namespace) -> int:
    from ..evaluation.report import load_result, merge_results

    if not args.runs or args.output is None:
        raise CommandError("a table needs --runs FOLDER... and --output FOLDER")
    found = merge_results([load_result(folder) for folder in args.runs])
    show_and_save(found, args.output, {})
    return 0
