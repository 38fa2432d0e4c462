"""A small retrieval set whose vectors are known, and an encoder that looks them up."""

import zlib

import numpy as np

from modeling_unimur.data.retrieval_set import RetrievalSet

TOPICS = ("lion", "anchor", "violin", "teapot", "candle", "banana", "bridge", "clock")


def retrieval_set(pictures=(), splits=("validation", "test")):
    """One text and one captioned picture a topic; a query for each of them, in every split.

    A text query has another word than its text, so that BM25 finds captions alone.
    """
    corpus, queries, qrels = [], {}, {}
    for number, topic in enumerate(TOPICS):
        image = pictures[number % len(pictures)] if len(pictures) else f"{topic}.png"
        corpus.append({"doc_id": f"t{number}", "kind": "text", "text": f"what one says of {topic}ness", "image": ""})
        corpus.append({"doc_id": f"i{number}", "kind": "image", "text": f"a {topic}", "image": image})
    for split in splits:
        queries[split], qrels[split] = [], []
        for number, topic in enumerate(TOPICS):
            for kind, prefix in (("text", "t"), ("image", "i")):
                query_id = f"{split}-{kind}-{topic}"
                text = f"{topic}ish {split}" if kind == "text" else f"{topic} {split}"
                excluded = [f"t{(number + 1) % len(TOPICS)}"] if topic == "lion" else []
                queries[split].append({"query_id": query_id, "text": text, "kind": kind, "excluded": excluded})
                qrels[split].append({"query_id": query_id, "doc_id": f"{prefix}{number}", "score": 1})
    return RetrievalSet.from_rows(queries, corpus, qrels)


class TopicEncoder:
    """Texts and pictures as their topic's axis, with an offset for each kind and noise.

    Args:
        gap: length of the offset between pictures and words.
        noise: of every vector.
        blind: whether pictures are noise alone.
    """

    def __init__(self, gap=0.0, noise=0.05, blind=False):
        self.gap, self.noise, self.blind = gap, noise, blind
        self.width = len(TOPICS) + 3

    def _vectors(self, names, kind):
        found = np.zeros((len(names), self.width), dtype=np.float32)
        for row, name in enumerate(names):
            rng = np.random.default_rng(zlib.crc32(f"{kind} {name}".encode()))
            for number, topic in enumerate(TOPICS):
                if topic in name and not (kind == "image" and self.blind):
                    found[row, number] = 1.0
            # Which of a topic's two documents a query means.
            asks_text = "ish" in name or "ness" in name
            found[row, len(TOPICS) + (0 if kind == "text" and asks_text else 1)] = 0.3
            found[row, -1] = self.gap if kind == "image" else -self.gap
            found[row] += rng.normal(size=self.width) * (1.0 if kind == "image" and self.blind else self.noise)
        return found

    def encode_texts(self, texts):
        return self._vectors(texts, "text")

    def encode_images(self, addresses):
        return self._vectors(addresses, "image"), np.ones(len(addresses), bool)

    def fuse(self, images, captions, has_image, has_caption):
        joined = images + captions
        return joined / np.linalg.norm(joined, axis=1, keepdims=True)
