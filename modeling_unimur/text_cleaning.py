"""Texts as the tokenizers that dual encoders were trained with clean them first."""

import html

try:
    import ftfy
except ImportError:  # only for encoders whose texts are cleaned
    ftfy = None

# None leaves texts as they are; "clip" is what OpenAI's CLIP and open_clip do.
CLEANINGS = (None, "clip")


def check_cleaning(how: "str | None") -> "str | None":
    """The choice itself.

    Raises:
        ValueError: it is none of `CLEANINGS`.
    """
    if how not in CLEANINGS:
        raise ValueError(f"clean_text must be one of {', '.join(map(repr, CLEANINGS))}, got {how!r}.")
    return how


def clean_texts(texts: "list[str]", how: "str | None") -> "list[str]":
    """Texts, cleaned as a tokenizer expects them.

    `"clip"` is `basic_clean` and `whitespace_clean` of OpenAI's CLIP (`simple_tokenizer.py`), which its tokenizer in
    transformers leaves out: mojibake, ligatures, curly quotes and wide letters are made plain, HTML entities resolved
    twice, whitespace collapsed, letters lowered.

    Raises:
        ImportError: ftfy is not installed; the message says how to install it.
    """
    if how is None:
        return texts
    if ftfy is None:
        raise ImportError("clean_text='clip' needs ftfy: `pip install unimur[clean_text]`, or `pip install ftfy`.")
    return [" ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower() for text in texts]


__all__ = ["CLEANINGS", "check_cleaning", "clean_texts"]
