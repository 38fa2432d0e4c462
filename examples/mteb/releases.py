"""Releases of this package as models of MTEB: metadata, and an encoder that reads conversations as conversations."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.models.sentence_transformer_wrapper import SentenceTransformerEncoderWrapper
from mteb.types import PromptType
from sentence_transformers import SentenceTransformer

from modeling_unimur.modeling_open_clip import fuses_captions

_CITATIONS = {
    "unimur": """@inproceedings{wang2024unified,
  author = {Wang, Ziyang and Elfardy, Heba and Dreyer, Markus and Small, Kevin and Bansal, Mohit},
  booktitle = {Findings of the Association for Computational Linguistics: EACL 2024},
  title = {Unified Embeddings for Multimodal Retrieval via Frozen {LLM}s},
  year = {2024},
}""",
    "univl_dr": """@inproceedings{liu2023universal,
  author = {Liu, Zhenghao and Xiong, Chenyan and Lv, Yuanhuiyi and Liu, Zhiyuan and Yu, Ge},
  booktitle = {International Conference on Learning Representations},
  title = {Universal Vision-Language Dense Retrieval: Learning A Unified Representation Space for Multi-Modal
Retrieval},
  year = {2023},
}""",
}


class ReleaseEncoder(SentenceTransformerEncoderWrapper):
    """MTEB's wrapper, except that a dialogue is embedded as a dialogue and not as one text of all turns.

    Args:
        model: a folder or Hub id of a release, or the loaded model.
        kwargs: of MTEB's wrapper.
    """

    def __init__(self, model: str | SentenceTransformer, revision: str | None = None, **kwargs) -> None:
        if isinstance(model, str):
            kwargs.setdefault("trust_remote_code", True)
        super().__init__(model, revision, **kwargs)
        # MTEB takes a model in memory for one of texts alone.
        self.mteb_model_meta = release_meta(self.model, model if isinstance(model, str) else None, revision)

    def encode(self, inputs, *, prompt_type: PromptType | None = None, **kwargs):
        """As MTEB calls it."""
        talks = "conversation" in inputs.dataset.column_names and not fuses_captions(self.model[0].processor)
        if prompt_type != PromptType.query or not talks:
            return super().encode(inputs, prompt_type=prompt_type, **kwargs)
        chats = [list(chat) for batch in inputs for chat in batch["conversation"]]
        size = kwargs.get("batch_size", 32)
        return self.model.encode_query(chats, batch_size=size, convert_to_tensor=True, show_progress_bar=False).cpu()


def release_meta(embedder: SentenceTransformer, name: str | None = None, revision: str | None = None) -> ModelMeta:
    """What MTEB says of a model, out of a release's configuration and card.

    Args:
        embedder: the loaded release.
        name: its folder or Hub id, by default that which it was loaded from; a folder is called `local/FOLDER`.
        revision: of the Hub.
    """
    release = embedder[0]
    config = release.model.config
    kind = config.model_type
    source = name or config.name_or_path or kind
    card = Path(source) / "README.md"
    about = ModelCard.load(card).data if card.is_file() else None
    weights = list(release.model.parameters())
    known = ModelMeta.create_empty()
    return known.model_copy(
        update={
            "loader": ReleaseEncoder,
            "name": f"local/{Path(source).name}" if source.count("/") != 1 or Path(source).is_dir() else source,
            "revision": revision or "no_revision_available",
            "languages": ["eng-Latn"],
            "n_parameters": sum(weight.numel() for weight in weights),
            "memory_usage_mb": round(sum(weight.numel() * weight.element_size() for weight in weights) / 2**20),
            "max_tokens": release.processor.max_context_tokens if kind == "unimur" else None,
            "embed_dim": config.embedding_width,
            "license": getattr(about, "license", None),
            "open_weights": True,
            "framework": ["Sentence Transformers", "PyTorch", "Transformers", "safetensors"],
            "similarity_fn_name": ScoringFunction.COSINE,
            "use_instructions": False,
            "training_datasets": set(),
            "modalities": [kind for kind in ("text", "image") if kind in embedder.modalities],
            "citation": _CITATIONS[kind],
        }
    )
