"""Small files in exactly the forms in which WebQA is to be had."""

import base64
import io
import json

import numpy as np
from PIL import Image

FIRST_ID = 30_000_000


def jpeg(seed, size=(64, 48)):
    rng = np.random.default_rng(seed)
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_pictures(folder, count, truncated=()):
    """`imgs.tsv` and both of its indexes; truncated pictures lose their second half, as a download leaves them."""
    plain, named, position = [], [], 0
    with (folder / "imgs.tsv").open("wb") as table:
        for number in range(count):
            data = jpeg(number)
            data = data[: len(data) // 2] if number in truncated else data
            line = f"{FIRST_ID + number}\t".encode() + base64.b64encode(data) + b"\n"
            plain.append(f"{position}\n")
            named.append(f"{FIRST_ID + number}\t{position}\n")
            position += table.write(line)
    (folder / "imgs.lineidx").write_text("".join(plain))
    # The authors' own order is not that of the table.
    (folder / "imgs.lineidx.new").write_text("".join(reversed(named)))


def image_fact(number, caption=None):
    return {
        "image_id": FIRST_ID + number,
        "title": f"File {number}",
        "caption": caption or f' "caption of {number}"\r ',
        "url": "https://commons.example/x",
        "imgUrl": "https://commons.example/x.jpg",
    }


def text_fact(guid, number, fact=None):
    return {
        "snippet_id": f"{guid}_{number}",
        "title": "A page",
        "fact": fact or f'"fact {number} of {guid}" ',
        "url": "https://en.example/page",
    }


def question(guid, split, texts=(), images=(), negative_texts=(), negative_images=()):
    return {
        "Q": f'"What of {guid}?"\r',
        "A": ['"an answer"'],
        "topic": "",
        "split": split,
        "Qcate": "text" if texts else "Others",
        "Guid": guid,
        "img_posFacts": list(images),
        "img_negFacts": list(negative_images),
        "txt_posFacts": list(texts),
        "txt_negFacts": list(negative_texts),
    }


def write_raw(folder, train=12, indent=None):
    """Training questions that ask for texts and for pictures in turn, two for validation, one test file."""
    data = {}
    for number in range(train):
        guid = f"g{number}"
        if number % 2:
            data[guid] = question(guid, "train", images=[image_fact(number)], negative_images=[image_fact(0)])
        else:
            shared = text_fact(guid, 1, "The same sentence.")
            data[guid] = question(guid, "train", texts=[shared], negative_texts=[text_fact(guid, 2)])
    data["v0"] = question("v0", "val", images=[image_fact(1, "another caption of 1"), image_fact(3)])
    # A copy of its relevant text under another id is among the negatives.
    copy = [text_fact("v1", 8, "The same sentence."), text_fact("v1", 9)]
    data["v1"] = question("v1", "val", texts=[text_fact("v1", 1, "The same sentence.")], negative_texts=copy)
    (folder / "WebQA_train_val.json").write_text(json.dumps(data, indent=indent), encoding="utf-8")
    test = {
        "t0": {
            "Q": "A question without an answer?",
            "split": "test",
            "Guid": "t0",
            "txt_Facts": [text_fact("t0", 0)],
            "img_Facts": [image_fact(6)],
        }
    }
    (folder / "WebQA_test.json").write_text(json.dumps(test, indent=indent), encoding="utf-8")


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_released(folder, mined=True):
    """The files of `data.zip`."""
    texts = [{"snippet_id": f"d{number}", "fact": f"fact {number}", "title": "T"} for number in range(6)]
    write_lines(folder / "all_docs.json", texts)
    images = [{"image_id": FIRST_ID + n, "caption": f"caption {n}", "title": f"File {n}"} for n in range(4)]
    write_lines(folder / "all_imgs.json", images)
    verbal = [{**row, "caption": f"{row['caption']} [SEP] what is {row['image_id']}?"} for row in images]
    write_lines(folder / "all_imgs_query.json", verbal)

    def row(qid, texts=(), images=(), negative_texts=(), negative_images=()):
        return {
            "qid": qid, "Q": f"question {qid}", "A": ["a"], "img_posFacts": list(images), "txt_posFacts": list(texts),
            "img_negFacts": list(negative_images), "txt_negFacts": list(negative_texts),
        }  # fmt: skip

    ids = [str(FIRST_ID + n) for n in range(4)]
    write_lines(folder / "train.json", [row("a", texts=["d0"], negative_texts=["d1"]), row("b", images=ids[:2])])
    if mined:
        joint = row("a", texts=["d0"], negative_texts=["d4", "d2"], negative_images=[ids[3]])
        joint["all_negFacts"] = ["d4", ids[3], "d2"]
        write_lines(folder / "train_all.json", [joint, row("b", images=ids[:2])])
    write_lines(folder / "dev.json", [row("c", texts=["d2", "d3"])])
    write_lines(folder / "test.json", [row("d", images=[ids[2]])])


def write_mbeir(folder):
    """M-BEIR's folders, with both tasks."""
    for name in ("cand_pool/local", "query/train", "query/val", "query/test", "mbeir_images/webqa_images"):
        (folder / name).mkdir(parents=True)
    texts = [
        {"txt": f"fact {n}", "img_path": None, "modality": "text", "did": f"9:{n}", "src_content": "{}"}
        for n in range(1, 4)
    ]
    pairs = []
    for n in range(4, 7):
        path = f"mbeir_images/webqa_images/{FIRST_ID + n}.jpg"
        if n < 6:
            (folder / path).write_bytes(jpeg(n))
        pairs.append({"img_path": path, "txt": f"caption {n}", "modality": "image,text", "did": f"9:{n}"})
    write_lines(folder / "cand_pool/local/mbeir_webqa_task1_cand_pool.jsonl", texts)
    write_lines(folder / "cand_pool/local/mbeir_webqa_task2_cand_pool.jsonl", pairs)

    def row(qid, positives, negatives=()):
        return {
            "qid": qid, "query_txt": f"question {qid}", "query_img_path": None, "query_modality": "text",
            "query_src_content": "{}", "pos_cand_list": list(positives), "neg_cand_list": list(negatives),
        }  # fmt: skip

    train = [row("9:1", ["9:1"], ["9:2", "9:4"]), row("9:2", ["9:4", "9:5"])]
    write_lines(folder / "query/train/mbeir_webqa_train.jsonl", train)
    write_lines(folder / "query/val/mbeir_webqa_task1_val.jsonl", [row("9:3", ["9:3"])])
    write_lines(folder / "query/test/mbeir_webqa_task1_test.jsonl", [row("9:1", ["9:2", "9:3"])])
    write_lines(folder / "query/test/mbeir_webqa_task2_test.jsonl", [row("9:2", ["9:6"])])
