"""`unimur serve`: dialogues in, ranked texts and pictures out, over HTTP."""

from __future__ import annotations

import argparse
import dataclasses
import os

from .errors import CommandError

_STOP_SECONDS = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this sub-command's arguments."""
    from ..serving.limits import ServingLimits

    parser.add_argument(
        "--model",
        metavar="FOLDER",
        help="model folder, or univl-dr-mini (default: unimur-mini, as `make demo` built it)",
    )
    parser.add_argument(
        "--index", required=True, metavar="URI", help="a folder, a Milvus file *.db, or a Milvus server's address"
    )
    parser.add_argument("--collection", metavar="NAME", help="of a Milvus database")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    parser.add_argument("--max-batch", type=_above_zero, default=16, metavar="N", help="requests answered together")
    parser.add_argument(
        "--chat-cache-mib", type=int, default=512, metavar="N", help="memory for chats that go on (default: 512)"
    )
    for field in dataclasses.fields(ServingLimits):
        kind = float if "seconds" in field.name else int
        default = "the model's own" if field.default is None else f"{field.default:,}"
        parser.add_argument(
            f"--max-{field.name.replace('_', '-')}", dest=f"max_{field.name}", type=kind, default=field.default,
            metavar="N", help=f"of a request (default: {default})",
        )  # fmt: skip


def _above_zero(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; requests that have begun are answered first."""
    from ..serving.limits import ServingLimits
    from .retriever import model_folder, open_with_index

    names = [field.name for field in dataclasses.fields(ServingLimits)]
    limits = ServingLimits(**{name: getattr(args, f"max_{name}") for name in names})
    model = model_folder(args.model)
    try:
        import uvicorn

        from ..serving.app import make_app
    except ImportError as error:
        raise CommandError("a server needs FastAPI and uvicorn: pip install unimur[serve]") from error
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    retriever = open_with_index(model, args.index, args.collection, quiet=not args.debug)
    retriever.chats.max_bytes = args.chat_cache_mib * 2**20
    app = make_app(retriever, limits, max_batch=args.max_batch)
    print(f"{len(retriever.index):,} candidates; POST http://{args.host}:{args.port}/retrieve", flush=True)
    uvicorn.run(
        app,
        host=args.host,
        port=args.port,
        log_level="info" if args.debug else "warning",
        access_log=args.debug,
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    retriever.index.close()
    return 0
