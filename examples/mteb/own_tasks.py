"""MTEB on a release: on files at hand, and on MTEB's own tasks by their names.

    pip install "unimur[mteb]"
    python examples/mteb/own_tasks.py [--model FOLDER] [--split test] [--limit N]
    python examples/mteb/own_tasks.py --model FOLDER --visdial VISDIAL --tasks SciFact --output results

Nothing is fetched, except by MTEB for the tasks that `--tasks` names. Tasks of this file: dialogue to image
(`dialogue_tasks.py`); `t2t` a dialogue's turns to its reply among all replies; `t2i` to its picture among those of the
split; `it2i` the words of a picture's gloss with another picture beside them to the picture that the words mean. A
model that fuses documents (UniVL-DR) is asked `t2it` instead: words to pictures with their titles and tags.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import mteb
from dialogue_tasks import FilesOnDisk, UniMuRDialogueToImage, VisDialDialogueToImage
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from releases import ReleaseEncoder
from sentence_transformers import SentenceTransformer

_KINDS = {"t": "text", "i": "image"}


def retrieval_task(
    name: str,
    category: str,
    queries: Mapping[str, dict],
    corpus: Mapping[str, dict],
    relevant: Mapping[str, Sequence[str]],
    description: str = "",
) -> AbsTaskRetrieval:
    """A task of MTEB from what lies in memory.

    Args:
        name: of the task.
        category: MTEB's, `t2t`, `t2i`, `it2i`, `t2it` and so on.
        queries, corpus: items by id, `{"text": ..., "image": path}` or one of the two.
        relevant: ids of the documents that are right for each query.
        description: of the task.
    """
    modalities = sorted({_KINDS[letter] for letter in category.replace("2", "")})

    class OwnTask(FilesOnDisk, AbsTaskRetrieval):
        metadata = TaskMetadata(
            name=name,
            description=description or name,
            dataset={"path": f"local/{name}", "revision": "local"},
            type="Retrieval" if category == "t2t" else "Any2AnyRetrieval",
            category=category,
            modalities=modalities,
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            prompt=None,
            reference=None,
            date=None,
            domains=None,
            task_subtypes=None,
            license=None,
            annotations_creators=None,
            dialect=None,
            sample_creation=None,
            bibtex_citation=None,
        )

        def contents(self):
            return queries, corpus, relevant

    return OwnTask()


def own_tasks(split: str, limit: int | None, fuses: bool) -> list[AbsTaskRetrieval]:
    """The tasks over the hand-written dialogues and the pictures of their split."""
    from modeling_unimur.conversation import words_of_dialogue
    from modeling_unimur.evaluation.compare_dialogues import own_dialogues
    from unimur_mini.dialogues import load_glosses

    dialogues, gallery = own_dialogues(split)
    dialogues = dialogues[:limit]
    pictures = {name: {"image": file} for name, file in zip(gallery.image_ids, gallery.images, strict=True)}
    words = dict(zip(gallery.image_ids, gallery.image_words, strict=True))
    turns = {f"d{number}": {"text": words_of_dialogue(dialogue.messages)} for number, dialogue in enumerate(dialogues)}
    replies = {f"r{number}": {"text": dialogue.right_text} for number, dialogue in enumerate(dialogues)}
    right = {f"d{number}": dialogue.right_images for number, dialogue in enumerate(dialogues)}
    read = load_glosses()[{"dev": "validation"}.get(split, split)]
    glosses = [row for row in read if row["target_picture"] in pictures][:limit]
    meant = {f"g{number}": [row["target_picture"]] for number, row in enumerate(glosses)}
    if fuses:
        asked = {f"g{number}": {"text": row["gloss"]} for number, row in enumerate(glosses)}
        captioned = {name: {**item, "text": words[name]} for name, item in pictures.items()}
        return [retrieval_task("UniMuRGlosses", "t2it", asked, captioned, meant)]
    others = list(pictures.values())
    beside = {
        f"g{n}": {"text": f"Not this. {row['gloss']}", **others[(7 * n) % len(others)]}
        for n, row in enumerate(glosses)
    }
    return [
        UniMuRDialogueToImage(split, limit),
        retrieval_task("UniMuRReplies", "t2t", turns, replies, {f"d{n}": [f"r{n}"] for n in range(len(dialogues))}),
        retrieval_task("UniMuRPictures", "t2i", turns, pictures, right),
        retrieval_task("UniMuRGlossBesideAPicture", "it2i", beside, pictures, meant),
    ]


def scores(
    embedder: SentenceTransformer, tasks: Sequence[AbsTaskRetrieval], output: Path | None = None
) -> dict[str, dict[str, float]]:
    """`ndcg_at_10` and recalls, or the main score of a task of another kind, by the name of the task.

    Args:
        embedder: a loaded release.
        tasks: of MTEB, or of this file.
        output: folder for MTEB's own result files, one a task.
    """
    found = mteb.evaluate(ReleaseEncoder(embedder), tasks, cache=None, overwrite_strategy="always")
    shown = {}
    for result in found.task_results:
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            result.to_disk(output / f"{result.task_name}.json")
        first = next(iter(result.scores.values()))[0]
        wanted = [name for name in ("ndcg_at_10", "recall_at_1", "recall_at_10") if name in first] or ["main_score"]
        shown[result.task_name] = {name: round(float(first[name]), 5) for name in wanted}
    return shown


def main() -> None:
    from modeling_unimur.data.cache import cache_dir
    from modeling_unimur.modeling_open_clip import fuses_captions

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(cache_dir() / "models" / "unimur-mini"), help="a release")
    parser.add_argument("--split", choices=("dev", "test"), default="test")
    parser.add_argument("--limit", type=int, help="only so many dialogues and glosses")
    parser.add_argument("--visdial", metavar="PATH", help="folder of VisDial v1.0, or of ChatIR, for one more task")
    parser.add_argument("--tasks", nargs="+", default=[], metavar="NAME", help="MTEB's own tasks, which it fetches")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="folder for MTEB's result files")
    args = parser.parse_args()
    embedder = SentenceTransformer(args.model, trust_remote_code=True)
    tasks = own_tasks(args.split, args.limit, fuses_captions(embedder[0].processor))
    tasks += [VisDialDialogueToImage(args.visdial, args.limit)] if args.visdial else []
    tasks += list(mteb.get_tasks(tasks=args.tasks)) if args.tasks else []
    print(json.dumps(scores(embedder, tasks, args.output), indent=1))


if __name__ == "__main__":
    main()
