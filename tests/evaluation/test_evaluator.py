"""What a killed run keeps, what systems share, and the registry of tasks."""

import json

import numpy as np
import pytest
from PIL import Image

from modeling_unimur.evaluation import evaluator as encoding_module
from modeling_unimur.evaluation import systems
from modeling_unimur.evaluation.answer_ranking import AnswerScorer
from modeling_unimur.evaluation.evaluator import Evaluator
from modeling_unimur.evaluation.systems import unimur as unimur_module
from modeling_unimur.evaluation.systems.base import Gallery
from modeling_unimur.evaluation.tasks import TASKS, TaskOptions, task_function
from tests.data import published_files as files


# -- speed and kills --------------------------------------------------------------------------------------------------
class Killed(Exception):
    """In the place of a kill."""


def test_a_kill_loses_at_most_one_batch(tmp_path, pair, monkeypatch):
    files.write_mmdialog(tmp_path, dialogs=6)
    monkeypatch.setattr(encoding_module, "_DIALOGUES", 1)
    monkeypatch.setattr(encoding_module, "_TEXTS", 3)
    space = systems.ClipSpace(*pair)
    system = systems.UniMuR(space)
    system.revision = "1"
    encoder = unimur_module.TurnEncoder
    seen = []

    class Counting(encoder):
        def encode(self, groups):
            if len(seen) == self.limit:
                raise Killed
            seen.append(len(groups))
            return super().encode(groups)

    Counting.limit = 4
    monkeypatch.setattr(unimur_module, "TurnEncoder", Counting)
    texts = []
    read = space.texts
    monkeypatch.setattr(space, "texts", lambda items, *a, **k: (texts.append(len(items)), read(items, *a, **k))[1])
    evaluate = task_function("mmdialog")
    with pytest.raises(Killed):
        evaluate(str(tmp_path), [system], TaskOptions(), tmp_path / "batches")
    assert len(seen) == 4
    embedded = sum(texts)
    Counting.limit = -1
    again = evaluate(str(tmp_path), [system], TaskOptions(), tmp_path / "batches")
    assert len(seen) == 6  # the four dialogues that were done are not read again
    assert sum(texts) == embedded > 0  # nor any candidate
    whole = evaluate(str(tmp_path), [system], TaskOptions())
    for name, column in whole.systems["UniMuR"].values.items():
        np.testing.assert_allclose(again.systems["UniMuR"].values[name], column, atol=1e-4)
    system.revision = "2"  # another state of the model has other batches
    evaluate(str(tmp_path), [system], TaskOptions(), tmp_path / "batches")
    assert len(seen) == 6 + 6 + 6


def test_a_kill_in_the_middle_of_answers_loses_one_dialogue(tmp_path, pair, monkeypatch):
    files.write_visdial(tmp_path, dialogs=4, rounds=2, options=6)
    system = systems.UniMuR(systems.ClipSpace(*pair))
    system.revision = "1"
    score, seen = AnswerScorer.score, []

    def killed(self, questions):
        if len(seen) == 3:
            raise Killed
        seen.append(questions)
        return score(self, questions)

    evaluate = task_function("visdial-answers")
    monkeypatch.setattr(AnswerScorer, "score", killed)
    with pytest.raises(Killed):
        evaluate(str(tmp_path), [system], TaskOptions(), tmp_path / "batches")
    monkeypatch.setattr(AnswerScorer, "score", lambda self, part: (seen.append(part), score(self, part))[1])
    again = evaluate(str(tmp_path), [system], TaskOptions(), tmp_path / "batches")
    assert len(seen) == 4
    whole = evaluate(str(tmp_path), [system], TaskOptions())
    np.testing.assert_array_equal(again.systems["UniMuR"].values["mrr"], whole.systems["UniMuR"].values["mrr"])


def test_the_main_columns_are_the_last_round_that_all_dialogues_have(tmp_path, pair):
    whole, _ = files.write_visdial(tmp_path, dialogs=3, rounds=4, options=6)
    whole["data"]["dialogs"][1]["dialog"] = whole["data"]["dialogs"][1]["dialog"][:2]
    (tmp_path / "visdial_1.0_val.json").write_text(json.dumps(whole))
    (tmp_path / "visdial_1.0_val_dense_annotations.json").unlink()
    result = task_function("visdial")(
        str(tmp_path), [systems.ClipText(systems.ClipSpace(*pair))], TaskOptions(rounds=(1, 2, 3, 10))
    )
    assert {name.split()[-1] for name in result.main} == {"rounds2"}
    values = next(iter(result.systems.values())).values
    for name in result.main:
        assert np.isfinite(values[name]).all()
    assert np.isnan(values["dialogue2image r1 rounds3"]).tolist() == [False, True, False]


@pytest.fixture
def shown(pair):
    """How many images each run of the image tower shows it."""
    found = []
    handle = pair[0].clip.vision_model.register_forward_hook(lambda *call: found.append(len(call[2].pooler_output)))
    yield found
    handle.remove()


def test_systems_of_one_dual_encoder_share_its_work(tmp_path, pair, shown):
    files.write_mmdialog(tmp_path)
    space = systems.ClipSpace(*pair)
    gallery_of = [Gallery((), ("a",), (str(next(tmp_path.glob("test/*.jpg"))),), ("",))]
    message = [[[{"role": "user", "content": [{"type": "text", "text": "hi"}]}]]]
    Evaluator([systems.UniMuR(space), systems.ClipText(space), systems.ClipText(space, last_turn=True)]).encode(
        message, gallery_of[0]
    )
    assert sum(shown) == 1


@pytest.mark.parametrize(("name", "colour", "times"), [("a.png", "red", 2), ("b.png", "red", 2), ("a.png", "blue", 4)])
def test_kept_batches_are_of_what_images_hold(tmp_path, pair, shown, name, colour, times):
    """As a candidate and in a context: nothing is computed for a file that moved, everything for one that changed."""
    system = systems.UniMuR(systems.ClipSpace(*pair))
    system.revision = "1"
    found = []
    for file, pixels in (("a.png", "red"), (name, colour)):
        path = str(tmp_path / file)
        Image.new("RGB", (40, 40), pixels).save(path)
        context = [{"role": "user", "content": [{"type": "image", "image": path}, {"type": "text", "text": "hi"}]}]
        encoded = Evaluator([system], tmp_path / "work").encode([[context]], Gallery((), ("a",), (path,), ("",)))
        found.append(encoded["UniMuR"])
    assert len(shown) == times
    assert np.array_equal(found[0].queries, found[1].queries) == (times == 2)
    assert np.array_equal(found[0].candidates["image"], found[1].candidates["image"]) == (times == 2)


def test_a_folder_of_broken_pictures(tmp_path, pair):
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    gallery = Gallery((), ("a",), (str(tmp_path / "a.jpg"),), ("",))
    with pytest.raises(ValueError, match="1 candidates"):
        Evaluator([systems.UniMuR(systems.ClipSpace(*pair))]).encode([], gallery)


# -- registry ---------------------------------------------------------------------------------------------------------
def test_every_task_has_a_function():
    with pytest.raises(ValueError, match="mmdialog"):
        task_function("nothing")
    for name in TASKS:
        assert callable(task_function(name))


@pytest.mark.parametrize(
    "wrong", [{"over_return": 101}, {"limit": 0}, {"form": "x"}, {"rounds": ()}, {"rounds": (-1,)}]
)
def test_options_are_checked(wrong):
    with pytest.raises(ValueError):
        TaskOptions(**wrong)
