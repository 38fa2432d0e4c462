"""The hand-written dialogues of this package in the formats of MMDialog and VisDial, for their protocols."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ...data.cache import cache_dir
from ...data.text_lines import read_lines
from ..compare_dialogues import ComparedDialogue, gallery_ids, own_dialogues, read_own
from ..systems.base import Gallery

# What the images of a folder are called, `key<TAB>words`; no part of the published formats.
WORDS_FILE = "words.tsv"
# Raised whenever the files change for the same dialogues.
_VERSION = 1


def media_key(image_id: str) -> str:
    """A signed 64-bit number for an image, as MMDialog names its own."""
    return str(int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big", signed=True))


def own_folder(kind: str, split: str) -> Path:
    """Where a part of the dialogues lies in a set's format: another folder when the dialogues or their gallery change.

    Args:
        kind: `mmdialog` or `visdial`.
        split: `dev` or `test`.
    """
    state = json.dumps([_VERSION, read_own(split), gallery_ids(split)], ensure_ascii=False)
    return cache_dir() / "data" / f"own-{kind}-{split}-{hashlib.sha256(state.encode()).hexdigest()[:12]}"


def image_words(folder: Path) -> dict[str, str]:
    """Image key -> what it is called, where a folder says so."""
    path = folder / WORDS_FILE
    if not path.is_file():
        return {}
    return dict(line.split("\t", 1) for line in read_lines(path) if "\t" in line)


def write_own_mmdialog(
    split: str, folder: Path, own: tuple[Sequence[ComparedDialogue], Gallery] | None = None
) -> Path:
    """Writes the dialogues of a part as MMDialog's `test`: their turns, and the reply with its image; negatives are
    the other replies and the other images of the gallery, without those that are right as well.

    Args:
        split: `dev` or `test`.
        folder: of the set; what is there already is kept.
        own: dialogues and candidates, of `own_dialogues` by default.

    Returns:
        The folder, for `MMDialog(folder, "test")`.
    """
    if (folder / "test" / "conversations.json").is_file():
        return folder
    examples, gallery = own_dialogues(split) if own is None else own
    names = dict(zip(gallery.images, gallery.image_ids, strict=True))
    keys = {image_id: media_key(image_id) for image_id in gallery.image_ids}
    records = []
    for number, example in enumerate(examples):
        turns = [{"turn": [_part(part, names, keys) for part in message["content"]]} for message in example.messages]
        turns.append({"turn": [{"__TEXT__": example.right_text}, {"__MEDIA__": keys[example.right_images[0]]}]})
        records.append(
            {
                "conversation_id": number,
                "conversation": turns,
                "negative_candidate_media_keys": [
                    key for image_id, key in keys.items() if image_id not in example.right_images
                ],
                "negative_candidate_texts": [text for text in gallery.texts if text != example.right_text],
            }
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        part = Path(aside, "test")
        part.mkdir()
        words = []
        for image_id, path, named in zip(gallery.image_ids, gallery.images, gallery.image_words, strict=True):
            shutil.copyfile(path, part / f"{keys[image_id]}.jpg")  # readers go by the content, not by the name
            words.append(f"{keys[image_id]}\t{named}")
        (part / WORDS_FILE).write_text("\n".join(words) + "\n", encoding="utf-8")
        (part / "conversations.json").write_text(json.dumps(records, ensure_ascii=False, indent=0), encoding="utf-8")
        folder.mkdir(exist_ok=True)
        os.replace(part, folder / "test")
    return folder


def _part(part: dict, names: dict, keys: dict) -> dict:
    return {"__TEXT__": part["text"]} if part["type"] == "text" else {"__MEDIA__": keys[names[part["image"]]]}


def write_own_visdial(split: str, folder: Path, own: tuple[Sequence[ComparedDialogue], Gallery] | None = None) -> Path:
    """Writes the dialogues of a part as VisDial's val: two turns are a round, the image is the reply's, and the 100
    options of a round's answer are drawn from all second turns, in the order of a hash.

    Images within the dialogues are left out, as VisDial has none; dialogues whose words are then gone are too.

    Args:
        split: `dev` or `test`.
        folder: of the set; what is there already is kept.
        own: dialogues and candidates, of `own_dialogues` by default.
    """
    path = folder / "visdial_1.0_val.json"
    if path.is_file():
        return folder
    examples, gallery = own_dialogues(split) if own is None else own
    images = dict(zip(gallery.image_ids, gallery.images, strict=True))
    said = [[_words(message) for message in example.messages] for example in examples]
    questions = list(dict.fromkeys(turn for turns in said for turn in turns[::2]))
    answers = list(dict.fromkeys(turn for turns in said for turn in [*turns[1::2], ""][: len(turns[::2])]))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "VisualDialog_val2018").mkdir(exist_ok=True)
    dialogs = []
    for number, (example, turns) in enumerate(zip(examples, said, strict=True)):
        rounds = []
        for place, (question, answer) in enumerate(zip(turns[::2], [*turns[1::2], ""], strict=False)):
            gold = answers.index(answer)
            order = sorted(
                (index for index in range(len(answers)) if answers[index] and index != gold),
                key=lambda index: hashlib.sha256(f"{number} {place} {index}".encode()).digest(),
            )
            options = sorted([gold, *order[:99]])
            rounds.append(
                {
                    "question": questions.index(question),
                    "answer": gold,
                    "answer_options": options,
                    "gt_index": options.index(gold),
                }
            )
        if not answers[rounds[-1]["answer"]]:
            del rounds[-1]["answer_options"], rounds[-1]["gt_index"]  # the reply itself is wanted there
        name = f"VisualDialog_val2018_{number:012d}.jpg"
        shutil.copyfile(images[example.right_images[0]], folder / "VisualDialog_val2018" / name)
        dialogs.append({"image_id": number, "caption": "", "dialog": rounds})
    data = {"questions": questions, "answers": answers, "dialogs": dialogs}
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps({"version": "1.0", "split": "val2018", "data": data}, ensure_ascii=False), "utf-8")
    os.replace(aside, path)
    return folder


def _words(message: dict) -> str:
    return " ".join(part["text"] for part in message["content"] if part["type"] == "text").rstrip("?").strip()


__all__ = ["WORDS_FILE", "image_words", "media_key", "own_folder", "write_own_mmdialog", "write_own_visdial"]
