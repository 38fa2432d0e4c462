"""Small sets in exactly the formats in which MMDialog, VisDial, VIST and PhotoChat are published."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

WORDS = ["cat", "lighthouse", "birthday cake", "red balloon", "guitar", "keyboard", "beach", "morning"]


def picture(path: Path, seed: int) -> Path:
    """A picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(path)
    return path


def write_mmdialog(folder: Path, layout: str = "authors", split: str = "test", dialogs: int = 4, lines: bool = False):
    """Dialogues of three turns; every second reply has a picture, the last one of two. Keys are signed numbers."""
    if layout == "authors":
        file, pictures = folder / split / "conversations.json", folder / split
    else:
        split = "val" if split == "valid" else split
        file = folder / "MMDialogConversations" / split / "simple_conversations.json"
        pictures = folder / "MMDialogImage" / split
    keys = [[f"-{10**17 + number}", f"{10**17 + number}"] for number in range(dialogs)]
    for number, (first, second) in enumerate(keys):
        picture(pictures / f"{first}.jpg", 2 * number)
        picture(pictures / f"{second}.jpg", 2 * number + 1)
    texts = [f"here is my {WORDS[number % len(WORDS)]} {number}" for number in range(dialogs)]
    records = []
    for number in range(dialogs):
        others = [key for other in range(dialogs) if other != number for key in keys[other]]
        more = [{"__MEDIA__": keys[number][1]}] if number == dialogs - 1 else []
        records.append(
            {
                "conversation_id": 900 + number,
                "conversation": [
                    {"turn": [{"__TEXT__": f"good morning :red_heart: {number}"}]},
                    {"turn": [{"__TEXT__": texts[number]}, *[{"__MEDIA__": keys[number][0]}, *more] * (number % 2)]},
                    {"turn": [{"__TEXT__": f"what a beautiful {WORDS[number % len(WORDS)]}"}]},
                ],
                "negative_candidate_media_keys": others,
                "negative_candidate_texts": [text for other, text in enumerate(texts) if other != number],
            }
        )
        if split == "train":
            records[-1] = {key: records[-1][key] for key in ("conversation_id", "conversation")}
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(map(json.dumps, records)) if lines else json.dumps(records)
    file.write_text(text, encoding="utf-8")
    return file


def write_visdial(folder: Path, dialogs: int = 3, rounds: int = 10, options: int = 100):
    """The official files of val: questions without question mark, 100 options a round, rounds from 1 on in the dense
    annotations, which stand in another order than the dialogues."""
    folder.mkdir(parents=True, exist_ok=True)
    questions = [f"is there a {word} in the picture" for word in WORDS]
    answers = [f"{reply} {number}" for number in range(options) for reply in ("yes", "no")]
    records, dense = [], []
    for number in range(dialogs):
        image_id = 100 + number
        name = f"VisualDialog_val2018_{image_id:012d}.jpg"
        picture(folder / "VisualDialog_val2018" / name, number)
        turns = []
        for turn in range(rounds):
            gold = (3 * number + turn) % options
            chosen = [(number + turn + option) % len(answers) for option in range(options)]
            turns.append(
                {
                    "question": (number + turn) % len(questions),
                    "answer": chosen[gold],
                    "answer_options": chosen,
                    "gt_index": gold,
                }
            )
        records.append({"image_id": image_id, "caption": f"a {WORDS[number]} on a table", "dialog": turns})
        relevance = [0.0] * options
        relevance[turns[number % rounds]["gt_index"]], relevance[-1] = 1.0, 0.4
        dense.append({"image_id": image_id, "round_id": number % rounds + 1, "gt_relevance": relevance})
    data = {"questions": questions, "answers": answers, "dialogs": records}
    whole = {"version": "1.0", "split": "val2018", "data": data}
    (folder / "visdial_1.0_val.json").write_text(json.dumps(whole))
    (folder / "visdial_1.0_val_dense_annotations.json").write_text(json.dumps(dense[::-1]))
    return whole, dense


def write_chatir(folder: Path, dialogs: int = 3):
    """The val dialogues as ChatIR has them: a caption, then ten questions with their answers."""
    records = []
    for number in range(dialogs):
        name = f"unlabeled2017/{number:012d}.jpg"
        picture(folder / name, number)
        rounds = [f"is there a {word}? yes, {turn}" for turn, word in enumerate([*WORDS, "dog", "bird"])]
        records.append({"img": name, "dialog": [f"a {WORDS[number]} on a table", *rounds]})
    (folder / "dialogues").mkdir(parents=True, exist_ok=True)
    path = folder / "dialogues" / "VisDial_v1.0_queries_val.json"
    path.write_text(json.dumps(records))
    return path


def write_vist(folder: Path, stories: int = 3, split: str = "val"):
    """Stories of five sentences in shuffled order, each annotation in a list of its own."""
    annotations, images = [], []
    for story in range(stories):
        for place in (3, 0, 4, 1, 2):
            flickr = str(5000 + 5 * story + place)
            picture(folder / "images" / split / f"{flickr}.jpg", 5 * story + place)
            images.append({"id": flickr, "url_o": f"https://farm.example/{flickr}_o.jpg", "album_id": str(story)})
            annotations.append(
                [
                    {
                        "original_text": f"Anna saw the {WORDS[place]} .",
                        "text": f"[female] saw the {WORDS[place]} {story} .",
                        "album_id": str(story),
                        "photo_flickr_id": flickr,
                        "setting": "first-2-pick-and-tell",
                        "worker_id": "W1",
                        "story_id": str(40 + story),
                        "tier": "story-in-sequence",
                        "worker_arranged_photo_order": place,
                        "storylet_id": str(1000 * story + place),
                    }
                ]
            )
    path = folder / "sis" / f"{split}.story-in-sequence.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"images": images, "albums": [], "annotations": annotations, "type": "vist", "info": {}}
    path.write_text(json.dumps(whole))
    return path


def write_photochat(folder: Path, dialogs: int = 4, split: str = "test"):
    """Dialogues that share one photo in their fourth turn, in two files."""
    records = []
    for number in range(dialogs):
        photo_id = f"{split}/{number:016x}"
        picture(folder / "images" / f"{number:016x}.jpg", number)
        lines = ["hello", f"i was at the {WORDS[number]}", "can you show me", "", f"nice {WORDS[number]}"]
        records.append(
            {
                "photo_url": f"https://c6.example.com/3/2905/{number}_o.jpg",
                "photo_description": f"Objects in the photo: {WORDS[number].title()}, Person",
                "photo_id": photo_id,
                "dialogue_id": number,
                "dialogue": [
                    {"user_id": turn % 2, "message": line, "share_photo": not line} for turn, line in enumerate(lines)
                ],
            }
        )
    (folder / split).mkdir(parents=True, exist_ok=True)
    for part, chosen in enumerate((records[:2], records[2:])):
        (folder / split / f"{part}.json").write_text(json.dumps(chosen))
    return records
