"""What the readout benchmark reads: states at [RET] and means over the context, whatever else is in the batch."""

import pytest
import torch

from benchmarks import readout_states
from modeling_unimur import UniMuRModel, UniMuRProcessor


def test_states_are_those_of_the_context_alone(release, monkeypatch):
    monkeypatch.setattr(readout_states, "AT_RET", (1, -1))
    monkeypatch.setattr(readout_states, "POOLED", (1,))
    model, processor = UniMuRModel.from_pretrained(release).eval(), UniMuRProcessor.from_pretrained(release)
    contexts = [["a dog"], ["a cat that sleeps all day", "on a keyboard"], ["two cats"]]
    together = readout_states.read_states(model, processor, contexts, 32)
    assert set(together) == {("ret", 1), ("ret", -1), ("mean", 1)}
    for row, context in enumerate(contexts):
        alone = readout_states.read_states(model, processor, [context], 32)
        for name, values in together.items():
            torch.testing.assert_close(values[row : row + 1], alone[name], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together["ret", 1][0], together["mean", 1][0], atol=1e-3)
    seen = readout_states.side_by_side(together, ((-1,), (1,)))
    assert torch.equal(seen, torch.cat([together["ret", -1], together["mean", 1]], dim=1))


def test_recalls():
    from types import SimpleNamespace

    dev = SimpleNamespace(name="set", ids=["a", "b"], candidate_ids=["a", "b", "c"], candidates=torch.eye(3))
    queries = torch.tensor([[1.0, 0.5, 0.0], [0.9, 0.5, 0.0]])
    assert readout_states.recalls(dev, queries) == pytest.approx({"set_r1": 50.0, "set_r10": 100.0})
