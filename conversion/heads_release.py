"""Heads that FROMAGe's code or a descendant of it trained, as a heads-only release of UniMuR.

What `convert_fromage_to_hf.py` and `convert_gill_to_hf.py` share: the backbones and how a release names them, the
folder, and the command line.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from transformers import AutoConfig, PreTrainedConfig

from conversion.heads_plan import ARGUMENTS, HeadsPlan
from conversion.state_dicts import KeyLedger, new_target, read_tensors
from modeling_unimur import UniMuRConfig, UniMuRProcessor
from modeling_unimur.data.cache import build_once
from modeling_unimur.releasing.bases import Base
from modeling_unimur.releasing.card import Card, render_card
from modeling_unimur.releasing.clean_folder import write_heads

logger = logging.getLogger(__name__)

CHECKPOINT = "pretrained_ckpt.pth.tar"


@dataclass(frozen=True)
class Backbone:
    """A frozen backbone: where it is read from now, and how the release names it.

    Args:
        source: Hub id or folder.
        revision: branch, tag or commit of a Hub id; the commit that it stands for is recorded.
        base_model, base_revision: for a folder, the Hub id that it is a copy of and its commit (40 hexadecimal
            digits). Without them the release names no backbone and is loaded with `language_model=` and `clip=`.
    """

    source: str
    revision: str | None = None
    base_model: str | None = None
    base_revision: str | None = None

    def __post_init__(self):
        is_folder = Path(self.source).is_dir()
        if (self.base_model is None) != (self.base_revision is None):
            raise ValueError(f"{self.source}: a base model and its commit are given together.")
        if self.base_model is not None and not is_folder:
            raise ValueError(f"{self.source} is a Hub id, which the release names itself: give its revision alone.")
        if self.revision is not None and is_folder:
            raise ValueError(f"{self.source} is a folder, which has no revision: say which commit it is a copy of.")
        if self.base_model is not None:
            Base(self.base_model, self.base_revision)

    def config(self, hub: dict) -> PreTrainedConfig:
        """The backbone's configuration."""
        return AutoConfig.from_pretrained(self.source, revision=self.revision, **hub)

    def named(self, hub: dict) -> tuple[str | None, str | None]:
        """Hub id and commit for the release."""
        if Path(self.source).is_dir():
            return self.base_model, self.base_revision
        snapshot = Path(hf_hub_download(self.source, "config.json", revision=self.revision, **hub)).parent
        return self.source, snapshot.name  # huggingface_hub names the folder after the commit


# Reads a checkpoint: ledger, model_args.json, configurations of the language model and of the dual encoder.
Reader = Callable[[KeyLedger, dict, PreTrainedConfig, PreTrainedConfig], HeadsPlan]


def read_arguments(folder: str | os.PathLike) -> dict:
    """`model_args.json` of a checkpoint folder. Raises FileNotFoundError or ValueError where it is not there or no
    JSON."""
    return json.loads((Path(folder) / ARGUMENTS).read_text(encoding="utf-8"))


def release_heads(
    checkpoint: str | os.PathLike,
    output_dir: str | os.PathLike,
    language_model: Backbone,
    clip: Backbone,
    *,
    read: Reader,
    name: str,
    licence: str = "apache-2.0",
    hub_arguments: dict | None = None,
) -> Path:
    """Writes a heads-only release. Of the backbones it reads configurations and tokenizers only.

    Args:
        checkpoint: folder with `pretrained_ckpt.pth.tar` and `model_args.json`.
        output_dir: folder to make.
        language_model, clip: the frozen backbones.
        read: reads that checkpoint.
        name, licence: of the heads, for the card.
        hub_arguments: `cache_dir`, `token`, `local_files_only`.

    Returns:
        The folder `output_dir`, for `AutoModel.from_pretrained(folder, trust_remote_code=True)`.

    Raises:
        FileExistsError: the folder exists.
        FileNotFoundError, ValueError: the checkpoint lacks a part, or holds an unknown one or one of another shape; or
            the language model is not the one that the heads were trained on.
        OSError: a backbone cannot be had.
    """
    target, hub = new_target(output_dir), hub_arguments or {}
    title = f"{name} on {Path(language_model.source).name}"
    arguments = read_arguments(checkpoint)
    ledger = KeyLedger(read_tensors(Path(checkpoint) / CHECKPOINT), str(Path(checkpoint) / CHECKPOINT))
    text_config, clip_config = language_model.config(hub), clip.config(hub)
    if clip_config.model_type != "clip":
        raise ValueError(
            f"{clip.source} has the model type {clip_config.model_type}; the source reads CLIP's pooled output."
        )
    plan = read(ledger, arguments, text_config, clip_config)
    logger.info("%s", ledger.report())

    processor = UniMuRProcessor.from_backbones(
        language_model.source,
        clip.source,
        language_model_revision=language_model.revision,
        clip_revision=clip.revision,
        max_context_tokens=getattr(text_config, "max_position_embeddings", 1024),
        **plan.processor,
        **hub,
    )
    if processor.ret_token_ids != [plan.ret_token_id]:
        raise ValueError(
            f"The source reads token {plan.ret_token_id}, and after the tokenizer of {language_model.source} it is "
            f"{processor.ret_token_ids[0]}: this is not the language model that the heads were trained on."
        )
    if processor.tokenizer("")["input_ids"][0] != processor.tokenizer.bos_token_id:
        raise ValueError(
            f"{language_model.source}: its tokenizer puts no start token first (add_bos_token), and the source's did."
        )
    bases = {}
    for part, backbone in (("text", language_model), ("clip", clip)):
        bases[f"{part}_base_model"], bases[f"{part}_base_revision"] = backbone.named(hub)
    config = UniMuRConfig(
        text_config=text_config,
        clip_config=clip_config,
        ret_token_ids=processor.ret_token_ids,
        image_token_id=processor.image_token_id,
        heads_only=True,
        **bases,
        **plan.config,
    )

    def build(folder: Path) -> None:
        write_heads(folder, config, plan.heads, processor)
        trained = sum(tensor.numel() for tensor in plan.heads.values())
        card = render_card(Card(title=title, licence=licence, notes=plan.notes), config, trained)
        (folder / "README.md").write_text(card, encoding="utf-8")

    return build_once(target, build)


# -- the command line -----------------------------------------------------------------------------------------------
def run_command(description: str, convert: Callable[..., Path]) -> None:
    """The command line of a conversion of heads, and the conversion."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help=f"folder with {CHECKPOINT} and {ARGUMENTS}")
    parser.add_argument("output", help="folder to make")
    parts = (("language_model", "language model", "opt_version"), ("clip", "CLIP", "visual_encoder"))
    for part, words, key in parts:
        group, option = parser.add_argument_group(f"the frozen {words}"), f"--{part.replace('_', '-')}"
        group.add_argument(option, help=f"Hub id or folder (default: {key} of {ARGUMENTS})")
        group.add_argument(f"{option}-revision", help="branch, tag or commit of the Hub id")
        group.add_argument(f"{option}-base", metavar="ID", help="of a folder: the Hub id that the release names")
        group.add_argument(f"{option}-base-revision", metavar="COMMIT", help="of a folder: the commit, 40 digits")
    parser.add_argument("--licence", default="apache-2.0", help="of the heads, for the card (default: %(default)s)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments, backbones = read_arguments(args.checkpoint), []
    for part, _, key in parts:
        source = getattr(args, part) or arguments.get(key)
        if not source:
            parser.error(f"{ARGUMENTS} names no {key}: pass --{part.replace('_', '-')}.")
        fields = ("revision", "base", "base_revision")
        backbones.append(Backbone(source, *(getattr(args, f"{part}_{field}") for field in fields)))
    print(convert(args.checkpoint, args.output, *backbones, licence=args.licence))
