"""The texts that describe an image, each a pair with it."""

import re

# Words a description may have to be a caption and not an essay.
_LONGEST = 40
_ADDRESS = re.compile(r"https?://|www\.|\S+@\S+\.\S+")
_CAMEL_CASE = re.compile(r"(?<=[a-z])(?=[A-Z])")
_NOT_LETTERS = re.compile(r"[\W\d_]+")


def _clean(text: str) -> str:
    return " ".join(text.split())


def caption_forms(title: str, description: str = "", tags: "list[str] | None" = None, num_tags: int = 4) -> list[str]:
    """Different texts for one image: its title, its description, the title with tags.

    Args:
        title: may be empty.
        description: left out when it repeats the title, is longer than forty words, or holds an address.
        tags: keywords; the first `num_tags` that the title does not hold are used.

    Returns:
        at least one text, unless all three are empty.
    """
    title, description = _clean(title), _clean(description)
    forms = [title] if title else []
    usable = description and not _ADDRESS.search(description) and len(description.split()) <= _LONGEST
    if usable and description.casefold().strip(" .!") != title.casefold().strip(" .!"):
        forms.append(description)
    fresh = [tag for tag in map(_clean, tags or []) if tag and tag.casefold() not in title.casefold()][:num_tags]
    if fresh:
        forms.append(", ".join([title, *fresh] if title else fresh))
    return forms


def file_name_words(path: str, author: str = "") -> str:
    """What an image's file is named for, without numbers and the end that names the author, as uploads have it.

    "food/half_egg_jean-victor_bal_01" by "Jean-Victor Balin" -> "half egg". Empty where fewer than three letters
    remain.
    """
    words = _NOT_LETTERS.sub(" ", _CAMEL_CASE.sub(" ", path.rpartition("/")[2])).casefold().split()
    names = _NOT_LETTERS.sub(" ", author).casefold().split()
    # The library cuts file names at a length, and with them the author's name.
    while len(words) > 1 and (len(words[-1]) == 1 or any(name.startswith(words[-1]) for name in names)):
        words.pop()
    return " ".join(words) if len("".join(words)) > 2 else ""


__all__ = ["caption_forms", "file_name_words"]
