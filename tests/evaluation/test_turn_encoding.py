"""One pass over what contexts and answers share gives the numbers of each on its own."""

import warnings

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from modeling_unimur.evaluation.answer_ranking import AnswerScorer, Question
from modeling_unimur.evaluation.turn_encoding import TurnEncoder, plan_streams
from modeling_unimur.modeling_unimur import next_token_loss
from tests import tiny
from tests.test_query_anchor import shake

LINES = [
    "good morning",
    "what a beautiful morning it is ",
    "\n the red balloon",
    "no, but the cake was good",
    "a cat?",
]


def text(words, *pictures):
    parts = [{"type": "image", "image": picture} for picture in pictures]
    return {"role": "user", "content": [{"type": "text", "text": words}, *parts]}


def beginnings(turns):
    return [turns[:end] for end in range(1, len(turns) + 1)]


# -- what is put together ---------------------------------------------------------------------------------------------
def test_beginnings_of_one_dialogue_are_one_stream():
    (stream,) = plan_streams([[1, 2, 9], [1, 2, 3, 4, 9], [1, 2, 3, 9]], 1)
    assert stream.places == [1, 2, 3, 4]
    assert sorted((branch.row, branch.fork, branch.places) for branch in stream.branches) == [
        (0, 2, [9]), (1, 4, [9]), (2, 3, [9]),
    ]  # fmt: skip


def test_what_differs_little_is_in_the_branch_and_what_differs_much_apart():
    rows = [[1, 2, 3, 4, 5, 6, 9], [1, 2, 3, 8, 9], [1, 7, 7, 7, 9], [2, 3, 4, 5, 6, 9]]
    streams = plan_streams(rows, 1)
    assert [stream.places for stream in streams] == [[1, 2, 3, 4, 5, 6], [2, 3, 4, 5, 6], [1, 7, 7, 7]]
    assert [branch.places for branch in streams[0].branches] == [[9], [8, 9]]


def test_an_image_never_stands_in_a_branch_and_another_image_is_another_stream():
    assert len(plan_streams([[1, 2, 3, 4, 9], [1, 2, 3, ("a",), 9]], 1)) == 2
    assert len(plan_streams([[1, ("a",), 3, 4, 9], [1, ("b",), 3, 4, 9]], 1)) == 2
    assert len(plan_streams([[1, ("a",), 3, 4, 9], [1, ("a",), 3, 9]], 1)) == 1


def test_contexts_that_differ_in_their_image_alone(pair, pictures):
    group = [[text(LINES[0], picture)] for picture in pictures[:2]]
    found = TurnEncoder(*pair).encode([group])
    plain = pair[0].get_multimodal_features(**pair[1].process_context(group)).pooler_output
    torch.testing.assert_close(found, plain, atol=2e-5, rtol=0)
    assert float((found[0] - found[1]).abs().max()) > 0.001


# -- contexts ---------------------------------------------------------------------------------------------------------
def _groups(pictures):
    with_images = [
        text(LINES[0], pictures[0]),
        text(LINES[1]),
        text(LINES[2], pictures[1], pictures[0]),
        text(" ok"),
    ]
    return [beginnings([text(line) for line in LINES]), beginnings(with_images), [[text("hello")]]]


@pytest.mark.parametrize("anchor", ["none", "encoder"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_turns_in_one_pass_equal_turns_anew(family, anchor, make_model, tmp_path, pictures):
    language = tiny.language_model(tmp_path, family, bos=family == "opt")
    model, processor = make_model(
        language=language,
        processor={"readout_prompt": " means"},
        ret_layers=[-1, 1],
        query_anchor=anchor,
        query_gate=True,
    )
    if anchor == "encoder":
        shake(model)
    groups = _groups(pictures)
    encoder = TurnEncoder(model, processor)
    assert encoder.shares
    shared = encoder.encode(groups)
    for number, context in enumerate(context for group in groups for context in group):
        batch = processor.process_context(context)
        plain = model.get_multimodal_features(**batch).pooler_output[0]
        torch.testing.assert_close(shared[number], plain, atol=2e-5, rtol=0)
    torch.testing.assert_close(TurnEncoder(model, processor, share=False).encode(groups), shared, atol=2e-5, rtol=0)
    assert float((shared[0] - shared[1]).abs().max()) > 0.01


def test_every_token_of_the_shared_part_runs_once(pair, monkeypatch):
    model, processor = pair
    encoder, seen = TurnEncoder(model, processor), []
    assert encoder.shares
    embed = model.get_inputs_embeds
    monkeypatch.setattr(model, "get_inputs_embeds", lambda ids, *rest: seen.append(ids.numel()) or embed(ids, *rest))
    group = beginnings([text("good morning") for _ in range(8)])
    encoder.encode([group])
    whole = processor.process_context(group[-1])["input_ids"].shape[1]
    assert sum(seen) == whole - 1 + len(group)


def test_contexts_that_are_cut_in_front(make_model, pictures):
    model, processor = make_model(processor={})
    processor.max_context_tokens = 24
    group = beginnings([text("a cat slept on my keyboard", pictures[n % 4]) for n in range(6)])
    shared = TurnEncoder(model, processor).encode([group])
    plain = torch.cat([model.get_multimodal_features(**processor.process_context(c)).pooler_output for c in group])
    torch.testing.assert_close(shared, plain, atol=2e-5, rtol=0)


@pytest.mark.parametrize("family", ["mistral", "bloom"])
def test_models_that_cannot_share_run_each_anew(family, make_model, tmp_path, pictures):
    model, processor = make_model(language=tiny.language_model(tmp_path, family))
    group = beginnings([text(line) for line in LINES])
    with pytest.warns(UserWarning, match="share prefixes"):
        found = TurnEncoder(model, processor).encode([group])
    plain = torch.cat([model.get_multimodal_features(**processor.process_context(c)).pooler_output for c in group])
    torch.testing.assert_close(found, plain, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("family", "softcap"), [("llama", None), ("mistral", None), ("gemma2", 2.0)])
@pytest.mark.filterwarnings("ignore:.*cannot share prefixes")
def test_ret_is_as_likely_as_the_next_token_loss_has_it(family, softcap, make_model, tmp_path):
    capped = {"final_logit_softcapping": softcap} if softcap else {}
    model, processor = make_model(tiny.language_model(tmp_path, family, **capped), ret_token_loss_weight=1.0)
    context = [text("a cat slept on my keyboard")]
    _, (found,) = TurnEncoder(model, processor).encode_with_ret([[context]])
    ids = processor.process_context(context)["input_ids"]
    labels = model.context_labels(ids, torch.ones_like(ids))
    labels[:, :-1] = -100
    with torch.no_grad():
        hidden = model.language_model.base_model(inputs_embeds=model.get_inputs_embeds(ids)).last_hidden_state
        head, ret = model.get_output_embeddings(), model.heads.ret_embedding[0] / model.input_scale
        loss = next_token_loss(hidden, labels, head, ret, softcap)
    assert float(found) == pytest.approx(-float(loss), abs=1e-4)


def test_no_warning_where_it_works(pair):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert TurnEncoder(*pair).shares


def test_errors_name_the_dialogue(pair):
    encoder = TurnEncoder(*pair)
    with pytest.raises(ValueError, match="Dialogue 1"):
        encoder.encode([[[text("hello")]], [[{"role": "user", "content": ""}]]])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        encoder.encode([[[text("hello", "nowhere.png")]]])


# -- answers ----------------------------------------------------------------------------------------------------------
OPTIONS = [" yes", " no", " a beautiful red balloon", " cat", " the lighthouse?", " yes, the cake was good"]


def _questions(pictures):
    words, found = "", []
    for number, line in enumerate(LINES[:3]):
        words += f"Q: {line.strip()}?\nA:"
        message = {
            "role": "user",
            "content": [{"type": "image", "image": pictures[0]}, {"type": "text", "text": words}],
        }
        found.append(Question([message], OPTIONS[number:]))
        words += f"{OPTIONS[number]}\n"
    return found


def _by_the_language_model(model, processor, question, option):
    """Straight from the definition: one forward pass of the whole, vocabulary logits everywhere."""
    batch = processor.process_prompt(question.messages)
    tokens = processor.tokenizer(option, add_special_tokens=False)["input_ids"]
    ids = torch.cat([batch["input_ids"], torch.tensor([tokens])], dim=1)
    visual = model.get_visual_features(batch["pixel_values"])
    logits = model.language_model(inputs_embeds=model.get_inputs_embeds(ids, visual)).logits[0]
    after = F.log_softmax(logits[-len(tokens) - 1 : -1].float(), dim=-1)
    at = F.log_softmax(logits[-len(tokens) :].float(), dim=-1)
    rows = torch.arange(len(tokens))
    return float(after[rows, tokens].sum()), float(at[rows, tokens].sum())


@torch.inference_mode()
def test_answers_score_as_the_definition_says(pair, pictures):
    model, processor = pair
    questions = _questions(pictures)
    found = AnswerScorer(model, processor).score(questions)
    plain = AnswerScorer(model, processor, share=False).score(questions)
    for question, scores, anew in zip(questions, found, plain, strict=True):
        wanted, too_early = zip(
            *(_by_the_language_model(model, processor, question, option) for option in question.options), strict=True
        )
        np.testing.assert_allclose(scores, wanted, atol=1e-4)
        np.testing.assert_allclose(anew, wanted, atol=1e-4)
        # FROMAGe's script compares the prediction at a token with that token: another number altogether.
        assert np.abs(np.array(too_early) - wanted).max() > 0.01


def test_a_readout_of_another_layer_changes_no_answer(make_model, pictures):
    model, processor = make_model(ret_layers=[1])
    questions = _questions(pictures)
    scorer = AnswerScorer(model, processor)
    plain = AnswerScorer(model, processor, share=False).score(questions)
    for shared, anew in zip(scorer.score(questions), plain, strict=True):
        np.testing.assert_allclose(shared, anew, atol=1e-4)


def test_wrong_answers(pair):
    with pytest.raises(ValueError, match="no token"):
        AnswerScorer(*pair).score([Question([text("hello")], [" yes", ""])])
