"""How likely a language model finds each of many answers, with one cache for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from ..readout_unimur import FrozenReader
from .shared_prefix import Branch, plan_streams
from .turn_encoding import TurnEncoder

# Rows of vocabulary logits that exist at one time.
_LOGIT_ROWS = 256
# Options that run together from the start (FROMAGe's script: 20).
_OPTIONS = 20


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
    """Log-likelihoods of answers.

    The score of an answer is the sum (or the mean) of the logarithms of its tokens' probabilities, each given the
    context and the tokens *before* it. (FROMAGe's script for VisDial compares the prediction made *at* each token with
    that token itself, one place too early, and begins every answer with a start token.)

    Args:
        model (`UniMuRModel`), processor (`UniMuRProcessor`): a pair.
        normalise: `sum`, as FROMAGe, or `mean`, a token.
        share: whether all questions of a dialogue and all answers share one cache; False runs each answer from the
            start.

    Raises:
        ValueError: another `normalise`.
    """

    def __init__(self, model, processor, normalise: str = "sum", share: bool = True):
        super().__init__(model, processor, share)
        if normalise not in ("sum", "mean"):
            raise ValueError(f"normalise is 'sum' or 'mean', not {normalise!r}.")
        self.normalise = normalise

    @torch.inference_mode()
    def score(self, questions: Sequence[Question]) -> list[np.ndarray]:
        """Scores `(options,)` of every question, higher is better.

        Args:
            questions: of one dialogue, as these share what they have in common.

        Raises:
            ValueError: an option without a token; and as `TurnEncoder.encode`.
        """
        contexts = [self._read(question.messages, number) for number, question in enumerate(questions)]
        rows = [tokens[: -self.processor._suffix_length] for tokens, *_ in contexts]
        options = [self._option_tokens(question.options) for question in questions]
        if self._prefix is None or not self._prefix.works:
            return [
                self._from_the_start(row, context[1], found)
                for row, context, found in zip(rows, contexts, options, strict=True)
            ]
        scores: list[np.ndarray | None] = [None] * len(questions)
        image_token = self.processor.image_token_id
        for stream in plan_streams(rows, [context[2] for context in contexts], 0, image_token):
            sources = contexts[stream.branches[0].row][1]
            prefix = self._prefix.read_streams([stream], self._features(sources))
            for context in stream.branches:
                scores[context.row] = self._of_branch(prefix, context, options[context.row])
        return scores

    def _option_tokens(self, options: Sequence[str]) -> list[list[int]]:
        found = self.processor.tokenizer(list(options), add_special_tokens=False)["input_ids"]
        empty = next((option for option, tokens in zip(options, found, strict=True) if not tokens), None)
        if empty is not None:
            raise ValueError(f"The option {empty!r} has no token: leave it out.")
        return found

    def _of_branch(self, prefix, context: Branch, options: list[list[int]]) -> np.ndarray:
        """Scores of one question's options behind a stream."""
        lead = context.tokens  # what the context has of its own; nothing as a rule
        parts = [Branch(number, context.fork, [*lead, *tokens[:-1]]) for number, tokens in enumerate(options)]
        states = [prefix.hidden[0, context.fork - 1][None]]
        if any(part.tokens for part in parts):
            states.append(self._prefix.read_branches(prefix, [parts], context.fork)[1][0])
        pairs, place = [], 1
        for number, (part, tokens) in enumerate(zip(parts, options, strict=True)):
            before = [0, *range(place, place + len(part.tokens))]  # 0 is the end of what all share
            pairs += [(before[len(lead) + i], token, number) for i, token in enumerate(tokens)]
            place += len(part.tokens)
        return self._sums(torch.cat(states), pairs, options)

    def _sums(self, states: torch.Tensor, pairs: list[tuple[int, int, int]], options: list[list[int]]) -> np.ndarray:
        """Adds log-probabilities up by option.

        Args:
            states (`(states, width)`): last hidden states.
            pairs: number of a state, the token that follows it, and the option that it belongs to.
        """
        head, softcap = self.model.get_output_embeddings(), self.model._softcap
        places, tokens, owners = (torch.tensor(column, device=states.device) for column in zip(*pairs, strict=True))
        sums = torch.zeros(len(options), dtype=torch.float64, device=states.device)
        for first in range(0, len(states), _LOGIT_ROWS):
            here = (places >= first) & (places < first + _LOGIT_ROWS)
            logits = F.linear(states[first : first + _LOGIT_ROWS], head.weight, getattr(head, "bias", None)).float()
            if softcap is not None:
                logits = softcap * torch.tanh(logits / softcap)
            normaliser = logits.logsumexp(dim=-1)
            rows = places[here] - first
            sums.index_add_(0, owners[here], (logits[rows, tokens[here]] - normaliser[rows]).double())
        if self.normalise == "mean":
            sums /= torch.tensor([len(tokens) for tokens in options], device=sums.device)
        return sums.cpu().numpy()

    def _from_the_start(self, row: list[int], sources: list, options: list[list[int]]) -> np.ndarray:
        """The same scores, each option behind its own copy of the context."""
        reader, features, found = FrozenReader(self.model.language_model, [-1]), self._features(sources), []
        for first in range(0, len(options), _OPTIONS):
            part = options[first : first + _OPTIONS]
            width = len(row) + max(map(len, part)) - 1
            rows = [[*row, *tokens[:-1]] for tokens in part]
            gaps = [width - len(tokens) for tokens in rows]
            ids = [[0] * gap + tokens for gap, tokens in zip(gaps, rows, strict=True)]
            mask = torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps], device=self.model.device)
            visual = None if features is None else features.repeat(len(part), 1)
            embeds = self.model._embed_tokens(torch.tensor(ids, device=self.model.device), visual)
            _, hidden = reader.read(None, embeds, mask, 1)
            longest = max(map(len, part))
            states = hidden[:, -longest:].reshape(-1, hidden.shape[-1])
            pairs = [
                (number * longest + longest - len(tokens) + i, token, number)
                for number, tokens in enumerate(part)
                for i, token in enumerate(tokens)
            ]
            found.append(self._sums(states, pairs, part))
        return np.concatenate(found)


__all__ = ["AnswerScorer", "Question"]
