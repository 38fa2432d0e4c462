"""`unimur serve`: answer dialogues over HTTP with ranked texts and images."""

from __future__ import annotations

import argparse
import dataclasses
import os

from .arguments import (
    add_model_and_index,
    add_reranker,
    add_trust,
    opened_reranker,
    opening_arguments,
    positive_integer,
)

_STOP_SECONDS = 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add this sub-command's arguments."""
    from ..serving.limits import ServingLimits

    add_model_and_index(parser)
    add_trust(parser)
    add_reranker(parser, "rescore the best hits of each request")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=int, default=8000, help="default: 8000")
    parser.add_argument(
        "--max-batch", type=positive_integer, default=16, metavar="N", help="maximum number of requests per batch"
    )
    parser.add_argument(
        "--chat-cache-mib", type=int, default=512, metavar="N", help="memory for the cache of chats (default: 512)"
    )
    parser.add_argument(
        "--share-chats", action="store_true",
        help="share one cache of chats among all clients, who can then tell by the time of an answer "
        "what others asked (default: a client's own, by its X-Client or Authorization header)",
    )  # fmt: skip
    parser.add_argument(
        "--api-key", metavar="KEY", default=os.environ.get("UNIMUR_API_KEY"),
        help="requests must send `Authorization: Bearer KEY` (default: the environment variable UNIMUR_API_KEY; a key "
        "on the command line is visible to other users of the machine)",
    )  # fmt: skip
    parser.add_argument(
        "--served-name", metavar="NAME", help="name of the model for requests below /v1 (default: its folder's)"
    )
    parser.add_argument(
        "--proxy", action="append", default=[], metavar="ADDRESS",
        help="address of a proxy in front of the server, whose X-Forwarded-For header "
        "identifies a client; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--show-paths", action="store_true", help="return absolute paths as stored in the index (default: "
        "relative names)",
    )  # fmt: skip
    for field in dataclasses.fields(ServingLimits):
        kind = float if "seconds" in field.name else int
        default = "the model's own" if field.default is None else f"{field.default:,}"
        parser.add_argument(
            f"--max-{field.name.replace('_', '-')}", dest=f"max_{field.name}", type=kind, default=field.default,
            metavar="N", help=f"default: {default}",
        )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; requests that have begun are answered first."""
    from ..data.source_folders import source_folders
    from ..index.base import local_path
    from ..serving.limits import ServingLimits
    from ..serving.public_names import PublicNames
    from .retriever import model_folder, open_with_index

    names = [field.name for field in dataclasses.fields(ServingLimits)]
    limits = ServingLimits(**{name: getattr(args, f"max_{name}") for name in names})
    model, opening = model_folder(args.model), opening_arguments(args)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from ..serving.app import make_app
    from ..serving.connections import protocol_of  # both say how to install what is missing

    reranker = opened_reranker(args)
    retriever = open_with_index(model, args.index, args.collection, **opening)
    if retriever.chats is not None:
        retriever.chats.max_bytes = args.chat_cache_mib * 2**20
    shown = PublicNames(source_folders(local_path(args.index) or args.index), args.show_paths)
    name = args.served_name or os.path.basename(os.path.normpath(model))
    app = make_app(
        retriever, limits, max_batch=args.max_batch, names=shown, shares_chats=args.share_chats,
        api_key=args.api_key or None, model_name=name, reranker=reranker, rerank_top_k=args.rerank_top_k,
    )  # fmt: skip
    import uvicorn

    address = f"http://{args.host}:{args.port}"
    print(f"{len(retriever.index):,} candidates; POST {address}/retrieve, /v1/embeddings (model {name}), /v1/rerank")
    print(f"All requests and their fields: {address}/docs", flush=True)
    config = uvicorn.Config(
        app,
        host=args.host,
        port=args.port,
        # One warning for each malformed request would let clients fill the disk.
        log_level="info" if args.debug else "error",
        access_log=args.debug,
        http=protocol_of(_within_open_files(limits), tuple(args.proxy)),
        ws="none",
        proxy_headers=bool(args.proxy),
        forwarded_allow_ips=args.proxy or "",
        timeout_graceful_shutdown=_STOP_SECONDS,
    )
    uvicorn.Server(config).run()
    retriever.index.close()
    return 0


def _within_open_files(limits):
    """Limits with no more connections than the system lets the process open, and files to spare."""
    try:
        import resource
    except ImportError:  # Windows
        return limits
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed == resource.RLIM_INFINITY:
        return limits
    return dataclasses.replace(limits, connections=min(limits.connections, max(allowed // 2, 1)))
