"""What a training run reads: contexts of a source of texts beside the pictures."""

import json

import pytest

from modeling_unimur.training.alignment_data import load_data
from modeling_unimur.training.collators import all_rows
from modeling_unimur.training.recipes import load_recipe
from modeling_unimur.training.train_unimur import build
from tests.training.folder_run import write_pictures, write_recipe


def chats(path, count):
    turns = [
        [{"role": "user", "content": f"question {n}"}, {"role": "assistant", "content": f"answer {n}"}]
        for n in range(count)
    ]
    path.write_text("".join(json.dumps({"turns": some}) + "\n" for some in turns))
    return path


@pytest.mark.parametrize(("count", "held_out"), [(3, False), (60, True)])
def test_own_chats_train_and_judge_a_run(count, held_out, tmp_path, monkeypatch, language_folder, clip_folder):
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "cache"))
    recipe = write_recipe(
        tmp_path / "recipe.yaml", write_pictures(tmp_path / "pictures"), language_folder, clip_folder
    )
    words = [f"data.texts=[chats={chats(tmp_path / 'mine.jsonl', count)}]", f"training.output_dir={tmp_path / 'run'}"]
    chosen = load_recipe(recipe, words)
    data = load_data(build(chosen)[0], chosen.model, chosen.data)
    said = {tuple(row["turns"]) for row in all_rows(data.train)}
    assert any(turns[0].startswith("question") for turns in said)
    for sets in (data.dev, data.test):
        own = [found for found in sets if found.name == "own_chat_reply"]
        assert len(own) == held_out
        assert all(context[0].startswith("question") for found in own for context in found.contexts)
        assert not any(tuple(context) in said for found in own for context in found.contexts)


def test_texts_of_a_function_train_and_judge_a_run(tmp_path, monkeypatch, language_folder, clip_folder):
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "own_riddles.py").write_text(
        "def row(number):\n"
        "    turns = [{'role': 'user', 'content': f'riddle {number}'}]\n"
        "    return {'turns': turns, 'target_text': f'thing {number}'}\n"
        "def riddles():\n"
        "    return {'train': [row(number) for number in range(9)], 'test': [row(9)]}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    recipe = write_recipe(
        tmp_path / "recipe.yaml", write_pictures(tmp_path / "pictures"), language_folder, clip_folder
    )
    chosen = load_recipe(recipe, ["data.texts=[own_riddles:riddles]", f"training.output_dir={tmp_path / 'run'}"])
    data = load_data(build(chosen)[0], chosen.model, chosen.data)
    assert ["riddle 8"] in [row["turns"] for row in all_rows(data.train)]
    assert [found.contexts for found in data.test if found.name == "riddles_text"] == [[["riddle 9"]]]
    assert not [found for found in data.dev if found.name == "riddles_text"]
