"""Converts the hand-written dialogues of this package to dialogues of MMDialog and VisDial."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ...data.dialog_schema import Dialog, Turn
from ...data.visdial import OPTIONS, VisDialDialog, VisDialRound
from ..compare_dialogues import gallery_ids, own_dialogues, read_own


def own_digest(split: str) -> str:
    """Returns 16 hexadecimal digits that change when the dialogues of a part or their gallery change."""
    state = json.dumps([read_own(split), gallery_ids(split)], ensure_ascii=False)
    return hashlib.sha256(state.encode()).hexdigest()[:16]


def media_key(image_id: str) -> str:
    """Returns a signed 64-bit number for an image, as MMDialog names its images."""
    return str(int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big", signed=True))


def own_mmdialog(split: str) -> tuple[list[Dialog], dict[str, Path], dict[str, str]]:
    """Converts the dialogues of `dev` or `test` to those of MMDialog: their turns, and the reply with its image.
    Negatives are the other replies and the other images of the gallery, without those that are right as well.

    Returns:
        the dialogues, and by image id the images' files and words.
    """
    own, gallery = own_dialogues(split)
    keys = {image_id: media_key(image_id) for image_id in gallery.image_ids}
    key_of_file = dict(zip(gallery.images, keys.values(), strict=True))
    dialogs = []
    for number, dialogue in enumerate(own):
        said = [
            [
                ("text", part["text"]) if part["type"] == "text" else ("image", key_of_file[part["image"]])
                for part in message["content"]
            ]
            for message in dialogue.messages
        ]
        said.append([("text", dialogue.right_text), ("image", keys[dialogue.right_images[0]])])
        dialogs.append(
            Dialog(
                str(number),
                tuple(Turn(str(place % 2), tuple(elements)) for place, elements in enumerate(said)),
                tuple(text for text in gallery.texts if text != dialogue.right_text),
                tuple(key for image_id, key in keys.items() if image_id not in dialogue.right_images),
            )
        )
    files = {key: Path(file) for file, key in key_of_file.items()}
    return dialogs, files, dict(zip(keys.values(), gallery.image_words, strict=True))


def own_visdial(split: str) -> list[VisDialDialog]:
    """Converts the dialogues of `dev` or `test` to those of VisDial. Two turns are a round, the image is the reply's,
    and the 100 options of a round's answer are drawn from all second turns, in the order of a hash. Images within the
    dialogues are left out, as VisDial has none."""
    own, gallery = own_dialogues(split)
    files = dict(zip(gallery.image_ids, gallery.images, strict=True))
    said = [[_words(message) for message in dialogue.messages] for dialogue in own]
    answers = list(dict.fromkeys(turn for turns in said for turn in [*turns[1::2], ""][: len(turns[::2])]))
    dialogs = []
    for number, (dialogue, turns) in enumerate(zip(own, said, strict=True)):
        rounds = []
        for place, (question, answer) in enumerate(zip(turns[::2], [*turns[1::2], ""], strict=False)):
            if not answer:  # the reply itself is wanted there
                rounds.append(VisDialRound(question, ""))
                continue
            gold = answers.index(answer)
            order = sorted(
                (index for index in range(len(answers)) if answers[index] and index != gold),
                key=lambda index: hashlib.sha256(f"{number} {place} {index}".encode()).digest(),
            )
            options = sorted([gold, *order[: OPTIONS - 1]])
            chosen = tuple(answers[index] for index in options)
            rounds.append(VisDialRound(question, answer, chosen, options.index(gold)))
        dialogs.append(VisDialDialog(str(number), Path(files[dialogue.right_images[0]]), "", tuple(rounds)))
    return dialogs


def _words(message: dict) -> str:
    return " ".join(part["text"] for part in message["content"] if part["type"] == "text").rstrip("?").strip()
