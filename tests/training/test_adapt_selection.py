"""Adapted heads with the encoder at hand: its own query is the anchor, and no choice is below it."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from modeling_unimur import UniMuRConfig, UniMuRModel, UniMuRProcessor
from modeling_unimur.cli.adapt import report
from modeling_unimur.releasing.refusals import check_config
from modeling_unimur.training import adapt_contexts, adapt_selection, text_encoders
from modeling_unimur.training.adapt import AdaptOptions, adapt
from modeling_unimur.training.adapt_selection import AnchorChoice, PoolQueries
from modeling_unimur.training.collators import turn_messages
from modeling_unimur.training.context_rows import TextContext
from modeling_unimur.training.dev_sets import DevSet
from modeling_unimur.training.query_anchor_fit import merit_of
from modeling_unimur.training.text_encoders import TextSpace, load_text_space
from tests import tiny
from tests.hub_cache import publish
from tests.training import colour_index

module = importlib.import_module("modeling_unimur.training.adapt")
OPTIONS = AdaptOptions(contexts=120, dtype="float32")
SOURCES = ("gloss_to_title", "built_dialogue_to_text", "questions_to_text")
ASKED = [["a red cat"], ["hello", "a blue balloon", "no"], ["is it a town?", "it is, and white", "a white town"]]


def _sources(names):
    found = {}
    for name in names:
        contexts = [TextContext(["guess", f"number {n}"], f"a thing of kind {n}, {name}") for n in range(60)]
        found[name] = {"train": contexts[:40], "validation": contexts[40:50], "test": contexts[50:]}
    return found


@pytest.fixture(scope="module", params=["clip", "sentence_transformers"])
def encoder(request, clip_folder, tmp_path_factory):
    if request.param == "clip":
        return clip_folder
    return tiny.sentence_encoder(tmp_path_factory.mktemp("encoder") / "sentences")


@pytest.fixture(scope="module")
def vectors(encoder):
    return load_text_space(encoder).encode_documents(colour_index.texts()).numpy()


@pytest.fixture(scope="module")
def adapted(encoder, vectors, language_folder, tmp_path_factory):
    """A folder that was adapted with an encoder, what `adapt` returned, and the texts that the encoder was asked."""
    folder, asked = tmp_path_factory.mktemp("adapted") / "heads", []

    def watched(source):
        space = load_text_space(source)
        encode = space.encode_query
        return replace(space, encode_query=lambda texts: (asked.extend(texts), encode(texts))[1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adapt_contexts, "load_texts", _sources)
        patch.setattr(module, "load_text_space", watched)
        results = adapt(vectors, colour_index.texts(), language_folder, folder, encoder=encoder, options=OPTIONS)
    return folder, results, asked


def require_not_below(results) -> None:
    """The guarantee: on the contexts that chose, neither the mean nor a single set is below the encoder alone."""
    assert results["chosen_by"]["encoder"] <= min(results["chosen_by"].values())
    assert set(results["anchor"]["chosen_on"]) >= {"text_to_text", "dialogue_to_text", *SOURCES}
    for found in results["anchor"]["chosen_on"].values():
        assert found["anchored"] >= found["encoder"]


def test_the_choice_is_not_below_the_encoder(adapted):
    _, results, _ = adapted
    require_not_below(results)
    anchor = results["anchor"]
    assert set(results["chosen_by"]) == {"encoder", "closed_form", "sharpened"}
    assert results["chosen_by"][anchor["readout"]] == max(results["chosen_by"].values())
    alone = anchor["last_weight"] == anchor["readout_weight"] == 0
    assert results["kept"] == ("encoder" if alone else "anchored")
    for row in results["held_out"].values():
        assert row.keys() >= {"untrained", "closed_form", "sharpened", "encoder", "anchored"}
    lines = report(results)
    assert sum("encoder and heads" in line for line in lines) == len(results["held_out"])
    assert sum(line.startswith("Written: the encoder") for line in lines) == 1


def test_a_kind_of_dialogue_that_is_not_trained_on_counts(adapted):
    _, results, _ = adapted
    assert results["contexts"] == 60 + 2 * 30  # the index; glosses and dialogues have equal shares, questions none
    assert {"questions_to_text"} <= set(results["anchor"]["chosen_on"]) & set(results["held_out"])


def test_the_encoder_reads_each_context_once(adapted):
    *_, asked = adapted
    assert len(asked) == len(set(asked)) > 20


def test_heads_that_learnt_nothing_do_no_harm(encoder, vectors, language_folder, tmp_path, monkeypatch):
    def shuffled(*given, **options):
        read = importlib.import_module("modeling_unimur.training.readout_fit").read_contexts(*given, **options)
        return replace(read, targets=read.targets[torch.randperm(len(read.targets))])

    monkeypatch.setattr(adapt_contexts, "load_texts", _sources)
    monkeypatch.setattr(module, "read_contexts", shuffled)
    results = adapt(vectors, colour_index.texts(), language_folder, tmp_path, encoder=encoder, options=OPTIONS)
    require_not_below(results)
    row = results["held_out"]["text_to_text"]
    assert row["encoder"]["r1"] == row["anchored"]["r1"] == 100 > row["sharpened"]["r1"]


FRESH = """
import json, sys
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from transformers import pipeline

folder, output = sys.argv[1:]
dialogues = json.load(sys.stdin)
retriever = pipeline("multimodal-retrieval", model=folder, trust_remote_code=True)
embedder = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
found = {"pipeline": retriever.embed(dialogues), "sentences": torch.from_numpy(embedder.encode_query(dialogues))}
retriever.load_index(folder + "/index")
assert len(retriever(dialogues[0], top_k=3)["text"]) == 3
save_file({name: rows.contiguous() for name, rows in found.items()}, output)
"""


def test_a_fresh_process_makes_the_same_queries(adapted, encoder, tmp_path):
    folder, results, _ = adapted
    dialogues = [turn_messages(turns) for turns in ASKED]
    model, processor = UniMuRModel.from_pretrained(folder).eval(), UniMuRProcessor.from_pretrained(folder)
    assert model.config.anchor_base_model == processor.anchor_base_model == str(encoder)
    space, weights = load_text_space(encoder), results["anchor"]
    whole, last = (
        space.encode_queries(texts)
        for texts in (["\n".join(turns) for turns in ASKED], [turns[-1] for turns in ASKED])
    )
    with torch.no_grad():
        batch = processor.process_rendered([processor.render(dialogue) for dialogue in dialogues])
        readout = model.get_readout_features(**batch)
    parts = (("whole", whole), ("last", last), ("readout", readout))
    expected = F.normalize(sum(weights[f"{name}_weight"] * part for name, part in parts), dim=-1)
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(folder), str(tmp_path / "found")],
        input=json.dumps(dialogues), capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for found in load_file(tmp_path / "found").values():
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_release_refuses_the_path_of_an_encoder(adapted):
    config = json.loads((adapted[0] / "config.json").read_text())
    with pytest.raises(ValueError, match="anchor_base_model"):
        check_config({key: value for key, value in config.items() if key != "text_base_model"}, "config.json")


def test_a_long_dialogue_is_read_as_in_the_choice(adapted):
    processor = UniMuRProcessor.from_pretrained(adapted[0])
    ids = processor.process_queries(" ".join(colour_index.texts()))["input_ids"]
    assert ids.shape[1] == OPTIONS.max_context_tokens + processor.overhead_tokens


def test_an_encoder_of_the_hub_is_named_by_its_commit(clip_folder, tmp_path, monkeypatch):
    publish(tmp_path, "acme/encoder", clip_folder, "c3" * 20)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert text_encoders._commit("acme/encoder") == "c3" * 20
    assert text_encoders._commit("acme/nothing") is None
    assert text_encoders._commit(str(clip_folder)) is None


# -- the choice -------------------------------------------------------------------------------------------------------
WIDTH = 16


def _unit(*shape, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def _dev_set(name: str, seed: int, count: int = 40, others: int = 160) -> DevSet:
    candidates = _unit(count + others, WIDTH, seed=seed)
    return DevSet(name, [[f"{name} {n}"] for n in range(count)], np.arange(count), "text", candidates, np.arange(200))


@pytest.fixture
def sets() -> list[DevSet]:
    return [_dev_set("one", 1), _dev_set("two", 2)]


@pytest.fixture
def make_choice(sets):
    """A choice on two sets; the encoder's vectors of their contexts are the right ones with some noise."""
    known = {dev.contexts[n][0]: dev.candidates[n] for dev in sets for n in range(len(dev.contexts))}

    def encode(texts):
        return torch.stack([known[text] for text in texts]) + 1.5 * _unit(len(texts), WIDTH, seed=9)

    config = UniMuRConfig(text_config={"model_type": "llama"}, projection_dim=WIDTH)
    return lambda: AnchorChoice(TextSpace("made", encode, encode), config, sets, sets)


def _right(dev: DevSet, noise: float, seed: int) -> torch.Tensor:
    found = dev.candidates[: len(dev.contexts)]
    return F.normalize(found + noise * _unit(*found.shape, seed=seed), dim=-1)


def test_a_good_readout_is_taken_and_noise_is_not(make_choice, sets):
    choice = make_choice()
    choice.offer("noise", [_unit(40, WIDTH, seed=30 + n) for n in range(2)])
    choice.offer("good", [_right(dev, 1.5, 20 + n) for n, dev in enumerate(sets)])
    assert choice.best == "good"
    assert choice.choices["good"].weights["readout_weight"] > 0
    assert choice.choices["good"].merit > choice.choices["encoder"].merit + 2
    assert choice.choices["noise"].merit >= choice.choices["encoder"].merit
    # The weights were fitted by the same figure.
    assert choice.choices["good"].merit == pytest.approx(merit_of(list(choice.choices["good"].by_set.values())))
    readouts = [_right(dev, 1.5, 20 + n) for n, dev in enumerate(sets)]
    found = choice.queries(readouts)
    for dev, some, own in zip(sets, found, choice.own_queries(), strict=True):
        nothing = torch.zeros(40, 2, WIDTH)
        mrr = PoolQueries(dev, readouts[0], nothing).mrr(some)
        assert mrr == pytest.approx(choice.choices["good"].by_set[dev.name])
        assert mrr > PoolQueries(dev, readouts[0], nothing).mrr(own)


def test_what_helps_one_set_must_not_harm_another(make_choice, sets):
    choice = make_choice()
    choice.offer("one-sided", [_right(sets[0], 0.1, 20), _unit(40, WIDTH, seed=21)])
    for dev in sets:
        assert choice.choices["one-sided"].by_set[dev.name] >= choice.choices["encoder"].by_set[dev.name]


def test_a_large_index_chooses_among_fewer_candidates(sets, monkeypatch):
    monkeypatch.setattr(adapt_selection, "_MOST_CANDIDATES", 60)
    fewer = adapt_selection._fewer_candidates(sets[0])
    assert len(fewer.candidates) == len(fewer.candidate_ids) == 60
    assert set(range(40)) <= set(fewer.candidate_ids.tolist())
    places = torch.from_numpy(fewer.candidate_ids)
    assert torch.equal(fewer.candidates, sets[0].candidates[places])


@pytest.mark.parametrize(
    ("validation", "test", "sizes"), [(6, 4, (6, 4)), (5, 0, (3, 2)), (0, 4, (2, 2)), (1, 0, (1, 0)), (0, 0, (0, 0))]
)
def test_contexts_that_choose_are_others_than_those_that_judge(validation, test, sizes):
    parts = {"validation": [f"v{n}" for n in range(validation)], "test": [f"t{n}" for n in range(test)]}
    choosing, judging = adapt_contexts._held_out(parts)
    assert (len(choosing), len(judging)) == sizes
    assert not set(choosing) & set(judging)
