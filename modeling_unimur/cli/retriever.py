"""Opens models and indexes as the public pipeline."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..data.cache import cache_dir
from .errors import CommandError

DEFAULT_MODEL = "unimur-mini"
# Those that `make demo` builds go by their names.
OWN_MODELS = (DEFAULT_MODEL, "univl-dr-mini")


def model_folder(given: str | None) -> Path:
    """The model folder of `--model`: a path, or one of `OWN_MODELS`; UniMuR-mini by default. It is checked before
    slow packages are imported.

    Raises:
        CommandError: the folder is missing or holds no model.
    """
    is_own = given is None or (given in OWN_MODELS and not Path(given).exists())
    folder = cache_dir() / "models" / (given or DEFAULT_MODEL) if is_own else Path(given).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if is_own:
        raise CommandError(f"no model at {folder}; run `make demo` once to build it, or name one with --model FOLDER")
    raise CommandError(f"{folder} is not a model folder: it holds no config.json; name what `unimur train` wrote")


def model_source(given: str | None) -> str:
    """A checked folder as `model_folder` finds it, or the Hub id that was given.

    Raises:
        CommandError: it is neither.
    """
    if given is None or given in OWN_MODELS or Path(given).expanduser().is_dir():
        return str(model_folder(given))
    if given.count("/") != 1:
        raise CommandError(f"no model folder at {given}, and it is no Hub id such as owner/name")
    return given


def chosen_systems(names: str, known: Sequence[str]) -> list[str]:
    """The systems of `--systems`, in the order of `known`.

    Raises:
        CommandError: an unknown one, or none.
    """
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    if not chosen or not set(chosen) <= set(known):
        raise CommandError(f"--systems {names}: choose from {','.join(known)}")
    return [name for name in known if name in chosen]


def open_with_index(folder: Path, uri: str, collection: str | None = None, **opening: Any) -> Any:
    """`open_retriever` with the index at `uri`, and in a database its `collection`. The index is opened before the
    model is loaded, so that a typing error is told at once.

    Raises:
        CommandError: there is no index.
    """
    from ..index import is_database, open_index
    from ..index.versions import IndexFolder

    named, told = ({}, "") if collection is None else ({"collection": collection}, f" --collection {collection}")
    missing = CommandError(f"{uri} contains no index; `unimur index build SOURCE --index {uri}{told}` makes one")
    if not is_database(uri) and IndexFolder(uri).about() is None:
        raise missing
    try:
        index = open_index(uri, read_only=True, **named)
    except FileNotFoundError as error:
        if not is_database(uri):  # a file of a damaged folder
            raise
        raise missing from error
    retriever = open_retriever(folder, **opening)
    load_as_built(retriever, index)
    return retriever


def load_as_built(retriever: Any, index: Any) -> None:
    """Loads an open index into a pipeline, whose queries are truncated from now on where the index's vectors are."""
    if index.width is not None and index.width < retriever.width:
        retriever.truncate_dim = index.width
    retriever.load_index(index)


def open_retriever(
    folder: Path, *, quiet: bool = True, backbones: dict[str, str] | None = None, trust_remote_code: bool = False
) -> Any:
    """The pipeline `multimodal-retrieval` on a model, a folder or a Hub id. UniMuR, UniVL-DR and dual encoders are
    loaded by this package's own classes: no code beside their weights is run.

    Args:
        quiet: whether to keep back the libraries' notices.
        backbones: `language_model` and `clip`, in place of those that the folder names.
        trust_remote_code: whether code of the folder may be run, which a model of another kind needs.

    Raises:
        CommandError: a model of another kind, whose code is not trusted.
    """
    import transformers

    from .. import UniMuRModel, UniMuRProcessor, UniVLDRModel, UniVLDRProcessor
    from ..configuration_univl_dr import DUAL_ENCODERS

    if quiet:
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        logging.getLogger("timm").setLevel(logging.ERROR)
    source, given = str(folder), dict(backbones or {})
    kind = transformers.PreTrainedConfig.get_config_dict(source)[0].get("model_type")
    own = {"unimur": (UniMuRModel, UniMuRProcessor)}
    own |= dict.fromkeys(("univl_dr", *DUAL_ENCODERS), (UniVLDRModel, UniVLDRProcessor))
    if kind in own:
        model_class, processor_class = own[kind]
        model = model_class.from_pretrained(source, **given)
        processor = processor_class.from_pretrained(source, trust_remote_code=False)
        return transformers.pipeline("multimodal-retrieval", model=model, processor=processor)
    if not trust_remote_code:
        raise CommandError(
            f"{folder} holds a {kind} model, which this package does not know; --trust-remote-code runs the code that "
            "came with it"
        )
    return transformers.pipeline("multimodal-retrieval", model=source, model_kwargs=given, trust_remote_code=True)
