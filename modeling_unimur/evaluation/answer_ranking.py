"""Ranks answers by their likelihood under a language model; a shared context has one KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .turn_encoding import Branch, Stream, TurnEncoder, plan_streams

# Rows of vocabulary logits that exist at one time.
_LOGIT_ROWS = 256


@dataclass(frozen=True)
class Question:
    """A context and the answers to choose from.

    Args:
        messages: chat messages, which end where the answer begins.
        options: the answers; each is read as it is written, so it begins with a space where one belongs.
    """

    messages: Sequence[dict]
    options: Sequence[str]


class AnswerScorer(TurnEncoder):
    """Scores answers by their log-likelihood.

    The score of an answer is the sum of the logarithms of its tokens' probabilities, each given the
    context and the tokens *before* it. (FROMAGe's script for VisDial compares the prediction made *at* each token with
    that token itself, one place too early, and begins every answer with a start token.)

    Args:
        model (`UniMuRModel`), processor (`UniMuRProcessor`): a pair.
        share: whether all questions of a dialogue and all answers share one cache; False runs each answer from the
            start.
    """

    @torch.inference_mode()
    def score(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """Returns the scores `(options,)` of every question of one dialogue; higher is better.

        Raises:
            ValueError: an option without a token; and as `TurnEncoder.encode`.
        """
        contexts = [
            self.reader.read(question.messages, number, allow_urls=False)[0]
            for number, question in enumerate(questions)
        ]
        tokenizer = self.processor.tokenizer
        options = [tokenizer(list(q.options), add_special_tokens=False)["input_ids"] for q in questions]
        if any(not tokens for some in options for tokens in some):
            raise ValueError("An option has no token: leave it out.")
        last = self.processor.readout_length
        scores: list[np.ndarray | None] = [None] * len(questions)
        for stream in plan_streams([places[: len(places) - last] for places in contexts], 0):
            prefix = self.build([stream])
            for context in stream.branches:
                head = stream.places[: context.fork]
                parts = [
                    Branch(number, context.fork, [*context.places, *tokens[:-1]])
                    for number, tokens in enumerate(options[context.row])
                ]
                cut = None if prefix is None else prefix.cut(context.fork)
                hidden = {number: states for number, _, states in self.run([Stream(head, parts)], cut)}
                scores[context.row] = self._sums(hidden, len(context.places), options[context.row])
        return scores

    def _sums(self, hidden: dict[int, torch.Tensor], lead: int, options: list[list[int]]) -> np.ndarray:
        """Adds up the log-probabilities of each option.

        Args:
            hidden: last hidden states `(1 + lead + tokens - 1, width)` by the option's number; all options see the
                same at
                their beginning, the first `lead` states.
            options: the tokens of each.
        """
        parts, pairs, place = [hidden[0][lead : lead + 1]], [], 1
        for number, tokens in enumerate(options):
            rows = [0, *range(place, place + len(tokens) - 1)]
            pairs += [(row, token, number) for row, token in zip(rows, tokens, strict=True)]
            parts.append(hidden[number][lead + 1 :])
            place += len(tokens) - 1
        states = torch.cat(parts)
        places, tokens, owners = (torch.tensor(column, device=states.device) for column in zip(*pairs, strict=True))
        sums = torch.zeros(len(options), dtype=torch.float64, device=states.device)
        for first in range(0, len(states), _LOGIT_ROWS):
            here = (places >= first) & (places < first + _LOGIT_ROWS)
            logits = self.model.get_vocabulary_logits(states[first : first + _LOGIT_ROWS])
            normaliser, rows = logits.logsumexp(dim=-1), places[here] - first
            sums.index_add_(0, owners[here], (logits[rows, tokens[here]] - normaliser[rows]).double())
        return sums.cpu().numpy()
