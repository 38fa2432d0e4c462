"""Images put into words that a text tower reads beside their captions (UniVL-DR's image verbalization)."""

from .generators import ImageToTextVerbalizer, OcrVerbalizer, UniMuRVerbalizer, open_verbalizer
from .query_writer import QueryPairs, train_query_writer
from .verbalize import Verbalizer, WordStore, join_caption, joined_captions, read_words, verbalize, write_words

__all__ = [
    "ImageToTextVerbalizer",
    "OcrVerbalizer",
    "QueryPairs",
    "UniMuRVerbalizer",
    "Verbalizer",
    "WordStore",
    "join_caption",
    "joined_captions",
    "open_verbalizer",
    "read_words",
    "train_query_writer",
    "verbalize",
    "write_words",
]
