"""What an anchored query needs of a dialogue besides its tokens: words for the encoder, and figures for the gate."""

import copy

import torch

from .conversation import words_of_turn
from .text_encoder_unimur import encode_queries, load_text_encoder

_QUESTION_MARKS = "?\uff1f\u061f"  # also the full-width and the Arabic one
# The arguments of `UniMuRModel` that these inputs become, one row a dialogue.
ANCHOR_ROWS = (
    "anchor_input_ids",
    "anchor_attention_mask",
    "anchor_text_mask",
    "anchor_features",
    "turn_statistics",
)


class AnchorInputsMixin:
    """The part of [`UniMuRProcessor`] that prepares the anchor of a query.

    Attributes:
        anchor_encoder (*optional*): what embeds the words where candidates are ready embeddings of another encoder: a
            `SentenceTransformer`, or a callable from a list of texts to vectors `(texts, width)`. By default the
            model that `anchor_base_model` names, of sentence-transformers or a dual encoder (CLIP, SigLIP,
            open_clip), is loaded when it is first needed. It is never saved.
    """

    anchor_encoder = None

    def process_anchors(self, dialogues: "list[list[dict]]") -> dict:
        """The inputs of anchored queries; none with `query_anchor="none"`.

        Args:
            dialogues: chat messages whose content is a string or a list of text and image parts.

        Returns:
            `dict[str, torch.Tensor]`: `turn_statistics (dialogues, 2)`, the number of turns and the share of them with
            a question mark, and the words of all turns, a line each, and those of the last turn that has any, for the
            dual encoder: `anchor_input_ids`, `anchor_attention_mask` `(dialogues, 2, tokens)`, the latest tokens of a
            longer text, and `anchor_text_mask (dialogues, 2)`, False for no words. With another encoder they are
            embedded: `anchor_features (dialogues, 2, width)`, zeros for no words.

        Raises:
            ImportError: the encoder needs sentence-transformers, which is not installed.
        """
        if self.query_anchor == "none":
            return {}
        turns = [[words_of_turn(message) for message in messages] for messages in dialogues]
        asked = [[any(mark in words for mark in _QUESTION_MARKS) for words in dialogue] for dialogue in turns]
        statistics = [[len(marks), sum(marks) / max(len(marks), 1)] for marks in asked]
        texts = [text for messages in dialogues for text in anchor_words(messages)]
        found = {"turn_statistics": torch.tensor(statistics, dtype=torch.float32).reshape(-1, 2)}
        if self.anchor_encoder is not None or self.anchor_base_model is not None:
            vectors = self._embed_words(texts)
            return {**found, "anchor_features": vectors.reshape(len(turns), 2, -1)}
        batch = self.process_texts(texts, keep="latest")
        found.update({f"anchor_{name}": rows.reshape(len(turns), 2, -1) for name, rows in batch.items()})
        return {**found, "anchor_text_mask": torch.tensor([bool(text) for text in texts]).reshape(-1, 2)}

    def _embed_words(self, texts: "list[str]") -> torch.Tensor:
        """Vectors of texts by `anchor_encoder`, float32 on the CPU, zeros for empty texts; each text once."""
        if self.anchor_encoder is None:
            self.anchor_encoder = self._load_anchor_encoder()
        distinct = list(dict.fromkeys(text for text in texts if text)) or [" "]
        vectors = encode_queries(self.anchor_encoder, distinct)
        places = {text: row for row, text in enumerate(distinct)}
        rows = torch.tensor([places.get(text, len(distinct)) for text in texts])
        return torch.cat([vectors, torch.zeros(1, vectors.shape[1])])[rows]

    def _load_anchor_encoder(self):
        try:
            return load_text_encoder(self.anchor_base_model, self.anchor_base_revision)
        except (ImportError, OSError, ValueError) as error:
            kind = ImportError if isinstance(error, ImportError) else ValueError
            raise kind(
                f"The encoder of anchored queries cannot be loaded: {error} Or pass anchor_encoder, a "
                "SentenceTransformer or a callable from texts to vectors, to the pipeline or the processor."
            ) from error

    def to_dict(self) -> dict:
        """What is saved. The encoder and the tokenizer's copy are not, and transformers would copy them first."""
        kept = {name: self.__dict__.pop(name) for name in ("anchor_encoder", "_latest_of") if name in self.__dict__}
        try:
            return super().to_dict()
        finally:
            self.__dict__.update(kept)

    def _latest_tokenizer(self):
        """The dual encoder's tokenizer, which keeps the latest tokens of a text that is too long."""
        kept = self.__dict__.get("_latest_of")
        if kept is None or kept[0] is not self.target_tokenizer:
            latest = copy.deepcopy(self.target_tokenizer)
            latest.truncation_side = "left"
            kept = self._latest_of = (self.target_tokenizer, latest)
        return kept[1]


def anchor_words(messages: "list[dict]") -> "tuple[str, str]":
    """What the encoder reads of a dialogue: the words of all turns, a line each, and those of the last turn that has
    any; empty texts where nobody said anything."""
    said = [words for words in map(words_of_turn, messages) if words] or [""]
    return "\n".join(said), said[-1]


__all__ = ["ANCHOR_ROWS", "AnchorInputsMixin", "anchor_words"]
