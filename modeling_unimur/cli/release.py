"""`unimur release`: check a model's folder, try it, and upload it to the Hub."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..releasing.hub_cards import CARD_TO_FILL
from .arguments import add_backbones, chosen_backbones
from .errors import CommandError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `unimur release`."""
    parser.add_argument(
        "folder", metavar="FOLDER", help="folder of a model and its processor, such as the output of a training run"
    )
    parser.add_argument("--repo-id", required=True, metavar="OWNER/NAME", help="repository on the Hub")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--tag", metavar="NAME", help="tag of the commit, such as v1.0; existing tags are never moved")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--full", action="store_true", help="include the frozen backbones")
    kind.add_argument(
        "--heads-only",
        action="store_true",
        help="release the trained maps alone, a few MB (default if both backbones are named by Hub id and commit)",
    )
    parser.add_argument("--card", metavar="FILE", type=Path, help=f"a completed copy of {CARD_TO_FILL}")
    flags = {"language model": ("--language-model-base", "--text-base"), "dual encoder": ("--clip-base",)}
    for words, names in flags.items():
        parser.add_argument(
            *names, metavar="ID@COMMIT", help=f"the frozen {words} on the Hub, if the model does not name it"
        )
    add_backbones(parser)
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="keep the uploaded files in this new folder")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check the release, load it in a fresh process and list its files; upload nothing",
    )


def run(args: argparse.Namespace) -> int:
    """Releases the model and prints the uploaded files."""
    owner, _, name = args.repo_id.partition("/")
    if not owner or not name or "/" in name:
        raise CommandError(f"--repo-id is OWNER/NAME, not {args.repo_id!r}")
    from ..releasing.bases import Base
    from ..releasing.release import release

    named = (("text", args.language_model_base), ("clip", args.clip_base))
    bases = {part: Base.parse(text) for part, text in named if text}
    made = release(
        Path(args.folder).expanduser(),
        args.repo_id,
        heads_only=True if args.heads_only else False if args.full else None,
        bases=bases,
        card=args.card,
        backbones=chosen_backbones(args),
        private=args.private,
        tag=args.tag,
        dry_run=args.dry_run,
        keep=args.keep,
    )
    for file, size in made.files.items():
        print(f"{size / 1e6:10.3f} MB  {file}")
    total, kind = sum(made.files.values()) / 1e6, "heads only" if made.heads_only else "full"
    print(f"{total:10.3f} MB  in {len(made.files)} files ({kind})")
    if made.left_out:
        print(f"Left out: {', '.join(made.left_out)}")
    print(f"Loaded in a fresh process by {', '.join(made.trial['roads'])}: {made.trial['width']} dimensions")
    print(f"Nothing was sent to {args.repo_id} (--dry-run)." if made.url is None else f"Released: {made.url}")
    return 0
