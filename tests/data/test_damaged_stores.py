"""Every store of what was computed: a damaged file of it is named, put aside and computed again, and nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import CLIPImageProcessor

from modeling_unimur.encoding import items
from modeling_unimur.encoding.build import build_index
from modeling_unimur.evaluation import evaluator as encoding
from modeling_unimur.evaluation.systems.base import Gallery
from modeling_unimur.training import prefix_store
from modeling_unimur.training.frozen_features import FeatureOptions, FrozenImages, FrozenTexts
from modeling_unimur.training.prefix_store import PrefixStore
from modeling_unimur.verbalization import WordStore
from tests.encoding.corpora import CountingEncoder, content, image_folder, options

SIDE = {"height": 8, "width": 8}
PROCESSOR = CLIPImageProcessor(do_resize=False, do_center_crop=False, size=SIDE, crop_size=SIDE)
OPTIONS = FeatureOptions(image_batch=2, text_batch=2, shard_rows=4, workers=0)


class Tower(nn.Module):
    """A linear map that counts its rows."""

    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.map, self.count = nn.Linear(192, 4), 0

    def forward(self, values):
        self.count += len(values)
        return self.map(values.flatten(1))


class Store:
    """One kind of store with the content of two models, 0 and 1.

    `run(seed)` opens that of a model, computes what is not there and returns all of it, and how many rows it computed;
    `files(seed)` are the shards.
    """

    def __init__(self, work: Path, monkeypatch, make_model):
        self.work, self.monkeypatch, self.make_model = work, monkeypatch, make_model
        self.prepare()

    def prepare(self) -> None:
        self.paths = []
        draw = np.random.default_rng(0)
        for number in range(9):
            self.paths.append(str(self.work / f"{number}.png"))
            Image.fromarray(draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(self.paths[-1])

    def below(self, folder: Path) -> list[Path]:
        return sorted(folder.rglob("*.safetensors"))


class Pictures(Store):
    def run(self, seed):
        tower = Tower(seed)
        found = FrozenImages(tower, tower, PROCESSOR, OPTIONS).features(self.paths)
        self.folders = {**getattr(self, "folders", {}), seed: found.folder}
        return found.rows.tensor(), tower.count

    def files(self, seed):
        return self.below(self.folders[seed])


class Contents(Pictures):
    """What files hold; it counts those that are read."""

    def prepare(self):
        super().prepare()
        read, self.read = items.read_image_bytes, []
        counted = lambda address: self.read.append(address) or read(address)  # noqa: E731
        self.monkeypatch.setattr(items, "read_image_bytes", counted)

    def run(self, seed):
        self.read.clear()
        rows, _ = super().run(seed)
        return rows, len(self.read)

    def files(self, seed):
        return super().files(seed) if seed else self.below(self.work / "cache" / "features" / "file-contents")


class Texts(Pictures):
    def run(self, seed):
        tower, values = Tower(seed), torch.randn(9, 192, generator=torch.Generator().manual_seed(0))
        encoder = FrozenTexts(tower, lambda texts: tower(values[[int(text) for text in texts]]), OPTIONS)
        found = encoder.features([str(number) for number in range(9)])
        self.folders = {**getattr(self, "folders", {}), seed: found.folder}
        return found.rows.tensor(), tower.count


class Corpus(Store):
    """Vectors of a corpus; the index is gone each time, and is filled from them."""

    def prepare(self):
        self.corpus = image_folder(self.work / "corpus", 9)

    def run(self, seed):
        encoder, uri = CountingEncoder(*self.make_model()), self.work / f"index-{seed}"
        if seed:  # another model, by its name and its vectors
            vectors, encoder.name = encoder.vectors, f"other@{'7' * 64}"
            encoder.vectors = lambda *inputs: -vectors(*inputs)
        shutil.rmtree(uri, ignore_errors=True)
        build_index(self.corpus, encoder, uri, options())
        found = content(uri)
        return torch.tensor(np.stack([found[key][1] for key in sorted(found)])), encoder.seen

    def files(self, seed):
        return self.below(self.work / f"index-{seed}.encoding")


class Prefixes(Store):
    texts = ("a cat", "the red balloon over the town", "no", "she plays guitar in the morning")

    def prepare(self):
        self.monkeypatch.setattr(prefix_store, "_SHARD", 1)  # a shard a context
        self.folders = {}

    def run(self, seed):
        model, processor = self.make_model()
        weight = next(model.language_model.parameters())
        with torch.no_grad():
            weight.add_(seed)
            store, batch = PrefixStore(model, folder=self.work / "prefixes"), processor.process_rendered(self.texts)
            known = len(store)
            states = store.states(batch["input_ids"], batch["attention_mask"])
            weight.sub_(seed)
        self.folders[seed] = store.folder
        return states, len(store) - known

    def files(self, seed):
        return self.below(self.folders[seed])


class Evaluation(Store):
    """Finished batches of an evaluation: candidates and queries."""

    has_vectors, predicts_ret, name, kinds = True, False, "fixed", ("text",)

    def prepare(self):
        self.monkeypatch.setattr(encoding, "_TEXTS", 2)
        self.monkeypatch.setattr(encoding, "_DIALOGUES", 2)

    def encode_candidates(self, gallery, kind):
        self.count += len(gallery.texts)
        return torch.tensor([[float(text), float(self.revision)] for text in gallery.texts])

    def encode_contexts(self, groups):
        return self.encode_candidates(Gallery([c[0]["content"] for group in groups for c in group]), "text"), None

    def run(self, seed):
        self.count, self.revision, numbers = 0, str(seed), [str(number) for number in range(9)]
        evaluator = encoding.Evaluator([self], self.work / "batches")
        found = evaluator.encode([[[{"role": "user", "content": n}]] for n in numbers], Gallery(numbers))
        rows = np.concatenate([found["fixed"].queries, found["fixed"].candidates["text"]])
        return torch.from_numpy(rows), self.count

    def files(self, seed):
        self.revision = str(seed)
        return self.below(encoding.work_folder(self, self.work / "batches"))


class Words(Store):
    """One file, which is damaged by the line."""

    def prepare(self):
        self.folder = self.work / "words"

    def run(self, seed):
        store = WordStore(self.folder, f"verbalizer {seed}")
        self.paths = {**getattr(self, "paths", {}), seed: store.path}
        missing = [str(number) for number in range(9) if str(number) not in store]
        for key in missing:
            store.add({key: f"{int(key) + 100 * seed}"})
        return torch.tensor([float(store[str(number)]) for number in range(9)]), len(missing)

    def files(self, seed):
        return [self.paths[seed]]


def truncated(own: list[Path], other: list[Path]) -> list[Path]:
    own[0].write_bytes(own[0].read_bytes()[: own[0].stat().st_size // 2])
    return own[:1]


def bit_flipped(own, other):
    data = bytearray(own[0].read_bytes())
    data[len(data) // 2] ^= 4
    own[0].write_bytes(data)
    return own[:1]


def empty(own, other):
    own[0].write_bytes(b"")
    return own[:1]


def of_another_store(own, other):
    shutil.copy(other[0], own[0])
    return own[:1]


def in_another_place(own, other):
    first, second = (path.read_bytes() for path in own[:2])
    own[0].write_bytes(second)
    own[1].write_bytes(first)
    return own[:2]


STORES = (Pictures, Contents, Texts, Corpus, Prefixes, Evaluation, Words)
DAMAGES = (truncated, bit_flipped, empty, of_another_store, in_another_place)


@pytest.mark.parametrize(
    ("kind", "damage"),
    [(kind, damage) for kind in STORES for damage in DAMAGES if (kind, damage) != (Words, in_another_place)],
)
def test_what_is_damaged_is_computed_again(kind, damage, tmp_path, monkeypatch, make_model, caplog):
    monkeypatch.setenv("UNIMUR_CACHE", str(tmp_path / "cache"))
    store = kind(tmp_path, monkeypatch, make_model)
    expected, total = store.run(0)
    other, _ = store.run(1)
    assert kind is Contents or not torch.allclose(other, expected)
    assert store.run(0)[1] == 0
    files = store.files(0)
    damaged = damage(files, store.files(1))
    caplog.clear()
    found, computed = store.run(0)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert 0 < computed <= total * len(damaged) / len(files) * 1.5
    for file in damaged:
        assert sum(str(file) in record.message for record in caplog.records) == 1, caplog.text
        assert kind is Words or file.with_name(f"{file.name}.damaged").exists()
    caplog.clear()
    found, computed = store.run(0)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert computed == 0
    assert ".safetensors" not in caplog.text
    torch.testing.assert_close(store.run(1)[0], other, atol=1e-6, rtol=0)
