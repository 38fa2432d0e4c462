"""Every protocol end to end on files in the published formats, on the small random model."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import pipeline

from modeling_unimur.data.dialog_schema import Dialog, Turn
from modeling_unimur.evaluation import systems
from modeling_unimur.evaluation.evaluator import Encoded, Evaluator
from modeling_unimur.evaluation.systems.base import Gallery
from modeling_unimur.evaluation.tasks import TaskOptions, task_function
from modeling_unimur.evaluation.tasks.mmdialog import open_replies, reply_figures, with_coherent_replies
from modeling_unimur.evaluation.tasks.replies import read_replies
from modeling_unimur.evaluation.tasks.visdial import visdial_context
from modeling_unimur.memory_index import Coherence, RetrievalIndex
from tests.data import published_files as files


@pytest.fixture(scope="module")
def some_systems(pair):
    space = systems.ClipSpace(*pair)
    return [systems.UniMuR(space), systems.ClipText(space), systems.BM25(), systems.Chance()]


def run(task, data, some_systems, **options):
    return task_function(task)(str(data), some_systems, TaskOptions(**options))


# -- MMDialog ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("layout", ["authors", "pace"])
def test_mmdialog(layout, tmp_path, some_systems, clip_folder):
    files.write_mmdialog(tmp_path, layout)
    found = run("mmdialog", tmp_path, some_systems, over_return=50, judge=str(clip_folder))
    assert len(found.query_ids) == 8  # two replies in each of four dialogues
    assert set(found.clusters) == {"900", "901", "902", "903"}
    names = ["UniMuR", "UniMuR, coherent reply", "CLIP-T, whole dialogue", "BM25", "chance"]
    assert list(found.systems) == names
    for figures in found.systems.values():
        has_image = ~np.isnan(figures.values["image_r1"])
        assert has_image.sum() == 2
        assert np.array_equal(np.isnan(figures.values["over_return"]), has_image)
        assert (figures.values["image_rate"][has_image] == 100).all()
        assert np.nanmean(figures.values["over_return@over50"]) <= 50
        assert figures.weights["overall_r1"].sum() == 11
        assert set(figures.values["consistency"][has_image]) <= {0.0, 100.0}
        assert 0 <= figures.values["mm_relevance"].min() <= figures.values["mm_relevance"].max() <= 100.001
    last = found.systems["UniMuR"].values["image_r10"][list(found.query_ids).index("903/1")]
    assert last == 50  # one of two gold pictures is returned, among fewer than ten candidates
    assert "4 dialogues of 10,000 published" in " ".join(found.notes)
    assert any("not 999 negative texts" in note for note in found.notes)


def test_relevance_in_its_own_space_takes_a_dual_encoder(tmp_path, some_systems):
    files.write_mmdialog(tmp_path)
    found = run("mmdialog", tmp_path, some_systems)
    with_it = [name for name, figures in found.systems.items() if "mm_relevance_own_space" in figures.values]
    assert with_it == ["UniMuR", "UniMuR, coherent reply", "CLIP-T, whole dialogue"]
    assert found.systems["UniMuR"].values["mm_relevance_own_space"].max() <= 100.001  # float32


def test_mmdialog_without_some_pictures(tmp_path, some_systems):
    path = files.write_mmdialog(tmp_path)
    (path.parent / "-100000000000000001.jpg").unlink()  # right for 901
    (path.parent / "100000000000000002.jpg").write_bytes(b"no picture")  # a negative
    found = run("mmdialog", tmp_path, some_systems)
    assert np.isfinite(found.systems["UniMuR"].values["image_r1"]).sum() == 1
    notes = " ".join(found.notes)
    assert "1 gold images that are missing" in notes
    assert "cannot be read, such as 100000000000000002" in notes


def test_context_based_image_retrieval(tmp_path, some_systems):
    files.write_mmdialog(tmp_path)
    found = run("mmdialog-images", tmp_path, some_systems)
    assert len(found.query_ids) == 3  # every gold picture on its own
    assert (found.systems["UniMuR"].values["r10"] == 100).all()


def test_figures_of_replies_by_hand():
    turn = lambda *elements: Turn("0", elements)  # noqa: E731
    dialogs = [
        Dialog("a", (turn(("text", "hi")), turn(("text", "t0"), ("image", "p0"))), ("t1", "t2"), ("p1", "p2")),
        Dialog("b", (turn(("text", "ho")), turn(("text", "t1"))), ("t0", "t2"), ("p0", "p2")),
        Dialog("c", (turn(("text", "hu")), turn(("text", "t2"), ("image", "p1"), ("image", "p2"))), ("t0",), ("p0",)),
    ]
    replies = read_replies(dialogs, lambda name: name)
    number = {kind: {name: n for n, name in enumerate(names)} for kind, names in (
        ("text", replies.gallery.texts), ("image", replies.gallery.image_ids))}  # fmt: skip
    tables = {
        "text": [{"t0": 3, "t1": 2, "t2": 1}, {"t0": 3, "t1": 2, "t2": 1}, {"t0": 1, "t2": 2}],
        "image": [{"p0": 1, "p1": 5, "p2": 0}, {"p0": 3, "p2": 2}, {"p0": 1, "p1": 2, "p2": 2}],
    }

    class Fixed:
        has_vectors, in_dual_encoder_space, image_threshold = False, False, None

        def scores(self, queries, candidates, kind):
            found = np.full((len(queries), len(number[kind])), -9.0)
            for row, query in enumerate(queries):
                for name, score in tables[kind][query].items():
                    found[row, number[kind][name]] = score
            return found

    figures = reply_figures(replies, Encoded(Fixed(), [0, 1, 2], dict.fromkeys(number)), TaskOptions(over_return=0))
    value = {name: column.tolist() for name, column in figures.values.items()}
    assert value["text_r1"] == [100, 0, 100]
    assert value["image_r1"][0] == 0
    assert value["image_r1"][2] == 50
    assert value["image_r5"][0] == 100
    assert np.isnan(value["image_r1"][1])
    assert value["overall_r1"] == [50, 0, pytest.approx(200 / 3)]
    assert figures.weights["overall_r1"].tolist() == [2, 1, 3]
    # The pictures' best scores are 5, 3 and 2: nothing may be returned in vain, so the threshold lies above 3.
    assert value["image_rate@over0"][0] == 100
    assert value["image_rate@over0"][2] == 0
    assert value["over_return@over0"][1] == 0
    assert value["overall_r1@over0"] == [50, 0, pytest.approx(100 / 3)]
    assert value["intent_f1"] == [100, pytest.approx(200 / 3), 80]
    assert value["intent_f1@over0"] == [100, 100, 50]
    # a returns t0 (of a) and p1 (of c); c returns t2 and p1, both of c.
    assert [value["consistency"][0], value["consistency"][2]] == [0, 100]
    assert figures.scalars["image_auc"] == 0.5


def test_coherent_replies_are_those_of_the_pipeline(tmp_path, pair, some_systems):
    """Every reply's own candidates in an index of their own."""
    model, processor = pair
    files.write_mmdialog(tmp_path)
    replies, _, _ = open_replies(str(tmp_path), TaskOptions())
    encoded = Evaluator(some_systems[:1]).encode(replies.groups, replies.gallery)
    both = with_coherent_replies(encoded)
    assert list(both) == ["UniMuR", "UniMuR, coherent reply"]
    plain, coherent = (reply_figures(replies, system, TaskOptions(over_return=50)) for system in both.values())
    for name in ("image_rate", "over_return", "image_rate@over50"):  # what is returned at all goes by the cosines
        np.testing.assert_array_equal(coherent.values[name], plain.values[name])
    assert coherent.scalars == plain.scalars
    retriever = pipeline("multimodal-retrieval", model=model, processor=processor)
    system, names = both["UniMuR, coherent reply"], {"text": replies.gallery.texts, "image": replies.gallery.image_ids}
    for place, reply in enumerate(replies.replies):
        retriever.index = RetrievalIndex()
        for kind in ("text", "image"):
            numbers = sorted({*replies.pools[kind][reply.dialog].tolist(), *reply.golds.get(kind, ())})
            vectors = torch.from_numpy(system.candidates[kind][numbers])
            retriever.add_embeddings(kind, [names[kind][n] for n in numbers], vectors, [{} for _ in numbers])
        answer = retriever.rank(torch.from_numpy(system.queries[place : place + 1]), top_k=50, coherent=True)[0]
        for kind in ("text", "image"):
            golds = reply.golds.get(kind, ())
            if len(golds) == 1:
                rank = [hit["id"] for hit in answer[kind]].index(names[kind][golds[0]]) + 1
                for k in (1, 5, 10):
                    assert coherent.values[f"{kind}_r{k}"][place] == 100 * (rank <= k)
    independent = replace(system, coherence=Coherence(weight=0.0))
    for name, column in reply_figures(replies, independent, TaskOptions(over_return=50)).values.items():
        np.testing.assert_array_equal(column, plain.values[name])


def test_own_dialogues_as_published_ones(some_systems, pictures, monkeypatch):
    from modeling_unimur.evaluation.compare_dialogues import ComparedDialogue, gallery_of
    from modeling_unimur.evaluation.tasks import own_sets

    def message(role, text, *shown):
        parts = [{"type": "image", "image": picture} for picture in shown]
        return {"role": role, "content": [{"type": "text", "text": text}, *parts]}

    columns = {"image_id": list("abcd"), "image": pictures, "title": [f"title {n}" for n in "abcd"]}
    dialogues = [
        ComparedDialogue(
            "dev-1",
            (message("assistant", "how was it?", pictures[3]), message("user", "great")),
            "look at this",
            ("a", "b"),
        ),
        ComparedDialogue(
            "dev-2",
            (message("user", "one"), message("assistant", "two"), message("user", "three?")),
            "here it is",
            ("c",),
        ),
    ]
    own = dialogues, gallery_of({**columns, "tags": [["x"]] * 4}, dialogues)
    monkeypatch.setattr(own_sets, "own_dialogues", lambda split: own)
    dialogs, files, words = own_sets.own_mmdialog("dev")
    assert [len(dialog.turns) for dialog in dialogs] == [3, 4]
    assert dialogs[0].turns[-1].elements[0] == ("text", "look at this")
    assert dialogs[0].negative_texts == ("here it is",)
    assert len(dialogs[0].negative_images) == 2  # without both that are right
    assert len(dialogs[0].turns[0].image_ids) == 1
    assert sorted(map(str, files.values())) == sorted(pictures)
    assert words[own_sets.media_key("c")] == "title c, x"
    found = run("mmdialog", "dev", some_systems)
    assert len(found.query_ids) == 5
    assert len(run("mmdialog", "dev", some_systems[:1], limit=1).query_ids) == 2
    rounds = [dialog.rounds for dialog in own_sets.own_visdial("dev")]
    assert [(r.question, r.answer) for r in rounds[1]] == [("one", "two"), ("three", "")]
    assert rounds[0][0].options[rounds[0][0].gold] == "great"
    assert rounds[1][-1].options is None
    assert "all rounds" in str(run("visdial", "dev", some_systems, rounds=(0,)).main)


# -- VisDial ----------------------------------------------------------------------------------------------------------
def test_visdial(tmp_path, some_systems):
    files.write_visdial(tmp_path)
    found = run("visdial", tmp_path, some_systems, rounds=(1, 10))
    assert found.query_ids.tolist() == ["100", "101", "102"]
    values = found.systems["UniMuR"].values
    assert len(values) == 2 * 2 * 3
    assert (values["dialogue2image r10 rounds10"] == 100).all()  # three pictures
    blind = found.systems["BM25"].values
    assert (blind["dialogue2image r1 rounds10"] == 0).all()  # it cannot see, and equal scores earn nothing


def test_visdial_of_fewer_rounds_and_without_a_picture(tmp_path, some_systems):
    whole, _ = files.write_visdial(tmp_path)
    whole["data"]["dialogs"][0]["dialog"] = whole["data"]["dialogs"][0]["dialog"][:4]
    (tmp_path / "visdial_1.0_val.json").write_text(json.dumps(whole))
    (tmp_path / "VisualDialog_val2018" / "VisualDialog_val2018_000000000102.jpg").unlink()
    found = run("visdial", tmp_path, some_systems[:1], rounds=(1, 10, 0))
    values = found.systems["UniMuR"].values
    assert np.isnan(values["dialogue2image r1 rounds10"]).tolist() == [True, False]
    assert not np.isnan(values["image2dialogue r1 all rounds"]).any()


def test_visdial_is_written_as_fromage_writes_it(tmp_path):
    from modeling_unimur.data.visdial import VisDial

    files.write_visdial(tmp_path)
    dialog = next(iter(VisDial(tmp_path)))
    (message,) = visdial_context(dialog, 2, TaskOptions(form="fromage"))
    (part,) = message["content"]
    rounds = ["Q: is there a cat in the picture? A: yes 0.", "Q: is there a lighthouse in the picture? A: yes 1."]
    assert part == {"type": "text", "text": " ".join(rounds)}
    chat = visdial_context(dialog, 1, TaskOptions(with_caption=True))
    assert [part["content"][0]["text"] for part in chat] == [
        "a cat on a table", "is there a cat in the picture?", "yes 0"
    ]  # fmt: skip


def test_chatirs_dialogues(tmp_path, some_systems):
    files.write_chatir(tmp_path)
    assert len(run("visdial", tmp_path, some_systems[:1], with_caption=True).query_ids) == 3
    with pytest.raises(ValueError, match="official files"):
        run("visdial-answers", tmp_path, some_systems)


def test_visdial_answers(tmp_path, some_systems):
    files.write_visdial(tmp_path, dialogs=2, rounds=3, options=6)
    found = run("visdial-answers", tmp_path, some_systems)
    assert found.query_ids.tolist() == [f"{name}/{turn}" for name in (100, 101) for turn in (1, 2, 3)]
    for figures in found.systems.values():
        # Rounds count from 1 in the annotations: the first dialogue's stand at its first round.
        assert np.isfinite(figures.values["ndcg"]).tolist() == [True, False, False, False, True, False]
        assert (figures.values["r10"] == 100).all()
        assert np.isfinite(figures.values["mrr"]).all()
    # The words of an answer do not stand in its question, but for BM25 there is nothing else to go by.
    assert found.systems["BM25"].values["r1"].mean() < 100


# -- VIST, PhotoChat, captions ----------------------------------------------------------------------------------------
def test_vist(tmp_path, some_systems):
    files.write_vist(tmp_path)
    (tmp_path / "images" / "val" / "5011.jpg").unlink()
    found = run("vist", tmp_path, some_systems)
    assert found.query_ids.tolist() == ["40", "41"]  # the third story lacks a picture
    assert set(found.systems["UniMuR"].values) == {
        f"{setting}: r{k}" for setting in ("1 caption", "5 captions", "5 captions, 4 images") for k in (1, 5, 10)
    }
    # Of 14 pictures four do not compete once they are shown, so that nothing is ranked below the tenth.
    assert (found.systems["UniMuR"].values["5 captions, 4 images: r10"] == 100).all()


def test_photochat(tmp_path, some_systems):
    files.write_photochat(tmp_path)
    found = run("photochat", tmp_path, some_systems, over_return=50)
    figures = found.systems["BM25"]
    assert (figures.values["r1"] == 100).all()  # the description names what was talked about
    assert (figures.values["sum"] == 300).all()
    assert 0 <= figures.scalars["share_auc"] <= 1
    assert 0 < figures.scalars["share_f1"] <= 100
    assert "4 dialogues of 1,000 published" in " ".join(found.notes)


def test_captions_of_a_folder_and_of_karpathys_splits(tmp_path, some_systems):
    entries, lines = [], []
    for number in range(3):
        files.picture(tmp_path / "val2014" / f"{number}.jpg", number)
        sentences = [{"raw": f"a {files.WORDS[number]} again {turn}"} for turn in range(2)]
        lines += [f"val2014/{number}.jpg\t{part['raw']}" for part in sentences]
        entries.append(
            {
                "filename": f"{number}.jpg",
                "filepath": "val2014",
                "split": "test" if number else "val",
                "sentences": sentences,
            }
        )
    entries.append({"filename": "gone.jpg", "filepath": "val2014", "split": "test", "sentences": sentences})
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": entries, "dataset": "coco"}))
    (tmp_path / "captions.tsv").write_text("\n".join(lines))
    whole = run("captions", tmp_path, some_systems)
    assert len(whole.query_ids) == 6
    assert np.isfinite(whole.systems["UniMuR"].values["image2caption r1"]).sum() == 3
    split = run("captions", tmp_path / "dataset_coco.json", some_systems)
    assert len(split.query_ids) == 4
    assert "1 images are missing." in split.notes


# -- systems ----------------------------------------------------------------------------------------------------------
def test_heads_that_rank_pictures_alone_return_no_text(make_model, tmp_path):
    """As a converted FROMAGe: a map on the pictures, none on the texts; trained to say [RET]."""
    model, processor = make_model(
        projection_dim=16, map_image_targets=True, textual_matching_weight=0.0, ret_token_loss_weight=1.0
    )
    files.write_mmdialog(tmp_path)
    found = run("mmdialog", tmp_path, [systems.UniMuR(systems.ClipSpace(model, processor), "FROMAGe")], over_return=50)
    figures = found.systems["FROMAGe"]
    assert (figures.values["text_r10"] == 0).all()
    assert figures.values["image_r10"][~np.isnan(figures.values["image_r10"])].min() > 0
    assert "mm_relevance_own_space" not in figures.values
    assert {"image_rate@ret", "image_rate@ret_over50"} <= set(figures.values)
    assert 0 <= figures.scalars["ret_auc"] <= 1


def test_chance_is_the_same_in_every_run_and_another_for_every_dialogue():
    gallery = Gallery([f"text {n}" for n in range(400)])
    messages = [[{"role": "user", "content": [{"type": "text", "text": f"hello {n}"}]}] for n in range(50)]
    found = []
    for _ in range(2):
        system = systems.Chance(3)
        candidates = {"text": system.encode_candidates(gallery, "text")}
        found.append(system.scores(system.encode_queries(messages), candidates, "text"))
    np.testing.assert_array_equal(*found)
    assert len(set(found[0].argmax(axis=1))) > 30


def test_sizes_of_pictures_do_not_matter(tmp_path, some_systems):
    files.write_mmdialog(tmp_path, dialogs=2)
    for path in (tmp_path / "test").glob("*.jpg"):
        Image.new("L", (3, 90), 7).save(path)
    assert len(run("mmdialog", tmp_path, some_systems[:1]).query_ids) == 4
