"""How likely a language model finds each of many answers, with one cache for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..prefix_cache import PrefixCache
from .turn_encoding import Branch, Context, TurnEncoder, plan_streams

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
        contexts = [self.read(question.messages, number) for number, question in enumerate(questions)]
        for context in contexts:
            del context.tokens[-self.processor.readout_length :]
        options = [self._option_tokens(question.options) for question in questions]
        if not self.shares:
            return [self._from_the_start(*pair) for pair in zip(contexts, options, strict=True)]
        scores: list[np.ndarray | None] = [None] * len(questions)
        for stream in plan_streams(contexts, 0, self.processor.image_token_id):
            prefix = self.run_streams([stream])
            for context in stream.branches:
                scores[context.row] = self._of_branch(prefix, context, options[context.row])
        return scores

    def _option_tokens(self, options: Sequence[str]) -> list[list[int]]:
        found = self.processor.tokenizer(list(options), add_special_tokens=False)["input_ids"]
        empty = next((option for option, tokens in zip(options, found, strict=True) if not tokens), None)
        if empty is not None:
            raise ValueError(f"The option {empty!r} has no token: leave it out.")
        return found

    def _of_branch(self, prefix: PrefixCache, context: Branch, options: list[list[int]]) -> np.ndarray:
        """Scores of one question's options behind a stream."""
        lead = context.tokens  # what the context has of its own; nothing as a rule
        parts = [Branch(number, context.fork, [*lead, *tokens[:-1]]) for number, tokens in enumerate(options)]
        states = [prefix.hidden[0, context.fork - 1][None]]
        if any(part.tokens for part in parts):
            states.append(self.run_branches(prefix.cut(context.fork), [parts]).hidden[0])
        pairs, place = [], 1
        for number, (part, tokens) in enumerate(zip(parts, options, strict=True)):
            before = [0, *range(place, place + len(part.tokens))]  # 0 is the end of what all share
            pairs += [(before[len(lead) + i], token, number) for i, token in enumerate(tokens)]
            place += len(part.tokens)
        return self._sums(torch.cat(states), pairs, options)

    def _from_the_start(self, context: Context, options: list[list[int]]) -> np.ndarray:
        """The same scores, each option behind its own copy of the context."""
        features, found = self.features([context]), []
        for first in range(0, len(options), _OPTIONS):
            part = options[first : first + _OPTIONS]
            ids, mask = self.pad([[*context.tokens, *tokens[:-1]] for tokens in part])
            visual = None if features is None else features.repeat(len(part), 1)
            hidden = self.model.frozen_decoder.extend(
                self.model.get_inputs_embeds(ids, visual), mask, read=False
            ).hidden
            longest = max(map(len, part))
            pairs = [
                (number * longest + longest - len(tokens) + i, token, number)
                for number, tokens in enumerate(part)
                for i, token in enumerate(tokens)
            ]
            found.append(self._sums(hidden[:, -longest:].flatten(0, 1), pairs, part))
        return np.concatenate(found)

    def _sums(self, states: torch.Tensor, pairs: list[tuple[int, int, int]], options: list[list[int]]) -> np.ndarray:
        """Adds log-probabilities up by option.

        Args:
            states (`(states, width)`): last hidden states.
            pairs: number of a state, the token that follows it, and the option that it belongs to.
        """
        places, tokens, owners = (torch.tensor(column, device=states.device) for column in zip(*pairs, strict=True))
        sums = torch.zeros(len(options), dtype=torch.float64, device=states.device)
        for first in range(0, len(states), _LOGIT_ROWS):
            here = (places >= first) & (places < first + _LOGIT_ROWS)
            logits = self.model.get_vocabulary_logits(states[first : first + _LOGIT_ROWS])
            normaliser, rows = logits.logsumexp(dim=-1), places[here] - first
            sums.index_add_(0, owners[here], (logits[rows, tokens[here]] - normaliser[rows]).double())
        if self.normalise == "mean":
            sums /= torch.tensor([len(tokens) for tokens in options], device=sums.device)
        return sums.cpu().numpy()


__all__ = ["AnswerScorer", "Question"]
