"""Reads the phrases and words of the dialogues from the text files in this folder."""

from __future__ import annotations

from pathlib import Path


def read_phrases(path: Path) -> dict[str, tuple[str, ...]]:
    """Reads phrases by section. `[section]` begins a section, each other line is a phrase, and `#` begins a comment.

    Raises:
        ValueError: if a phrase precedes the first section, or a section occurs twice. The message names the line.
    """
    sections: dict[str, list[str]] = {}
    phrases = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            section = line.strip("[]")
            if section in sections:
                raise ValueError(f"{path}, line {number}: the section [{section}] stands twice. Join the two.")
            phrases = sections[section] = []
        elif phrases is None:
            raise ValueError(f"{path}, line {number}: a phrase before the first section. Put [SECTION] before it.")
        else:
            phrases.append(line)
    return {section: tuple(phrases) for section, phrases in sections.items()}


_HERE = Path(__file__).parent
PHRASES = read_phrases(_HERE / "phrases.txt") | read_phrases(_HERE / "question_phrases.txt")
SLOTS = {name: PHRASES[f"slots.{name}"] for name in ("time", "place", "friend")}

WORDS = read_phrases(_HERE / "words.txt")


def word_list(section: str) -> tuple[str, ...]:
    """Returns the words of a section of `words.txt` in their order."""
    return tuple(" ".join(WORDS[section]).split())
