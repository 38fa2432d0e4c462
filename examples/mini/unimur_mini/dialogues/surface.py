"""Types messages as people do: capitals, full stops, typos, and sometimes a smiley."""

from __future__ import annotations

import random
import re

# Only faces and hands, because other emoji would name a thing.
_EMOJI = tuple("😀😄😂🙂😉😅🤔😊🙈😎👍🙏🤷😐")
_SHARES = {"lower": 0.3, "bare": 0.35, "emoji": 0.06, "typo": 0.04, "marks": 0.06, "stretch": 0.03}
_SENTENCE = re.compile(r"(^|[.!?]\s+)([a-z])")
_PRONOUN = re.compile(r"\bi('m|'d|'ve|'ll)?\b(?!\.)")


class Typing:
    """The typing habits of one speaker. `rng` determines them and each typo."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._lower = rng.random() < _SHARES["lower"]
        self._bare = rng.random() < _SHARES["bare"]

    def __call__(self, text: str) -> str:
        """Returns the message as this speaker would type it."""
        rng = self._rng
        text = re.sub(r"\s+([,.;?!])", r"\1", " ".join(text.split()))
        text = re.sub(r"([?!])[.,;]", r"\1", re.sub(r",\.", ".", re.sub(r"\.\.(?!\.)(?<!\.\.\.)", ".", text)))
        if self._lower:
            text = text.lower()
        else:
            text = _SENTENCE.sub(lambda match: match[1] + match[2].upper(), text)
            text = _PRONOUN.sub(lambda match: "I" + (match[1] or ""), text)
        if self._bare:
            text = text.rstrip(".")
        elif not re.search(r"[.?!:…][\"']?$", text):
            text += "."
        if rng.random() < _SHARES["marks"]:
            text = text.rstrip(".") + rng.choice(["!", "...", "!!", " :)", "…"]) if text[-1] != "?" else text + "?"
        if rng.random() < _SHARES["typo"]:
            text = _slip(text, rng)
        if rng.random() < _SHARES["emoji"]:
            text = f"{text} {rng.choice(_EMOJI)}"
        return text


def _slip(text: str, rng: random.Random) -> str:
    """Swaps two neighbouring letters or leaves one out in one of the longer words."""
    words = list(re.finditer(r"[a-z]{5,}", text))
    if not words:
        return text
    word = rng.choice(words)
    at = rng.randrange(word.start() + 1, word.end() - 2)
    if rng.random() < 0.5:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text[:at] + text[at + 1 :]
