"""FROMAGe's and GILL's embedding files to an index, and what is refused of them."""

import codecs
import copyreg
import json
import os
import pickle
import struct

import numpy as np
import pytest
import torch

from conversion.convert_embeddings_to_index import convert, main, read_embeddings
from conversion.restricted_pickle import read_arrays
from modeling_unimur import RetrievalIndex

URLS = [f"https://example.org/{number}.jpg" for number in range(40)]


@pytest.fixture
def vectors():
    return np.random.default_rng(1).normal(size=(40, 16)).astype(np.float32)


def dump(path, content, protocol=4):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def found(folder, queries, count=5) -> list[list[str]]:
    hits = RetrievalIndex.load(folder).search(torch.from_numpy(queries), count, kind="image")
    return [[hit.id for hit in row] for row in hits]


def best(names, vectors, queries, count=5) -> list[list[str]]:
    """As FROMAGe ranks: rows divided by their length, times exp(logit_scale), times the query."""
    matrix = torch.tensor(vectors)
    matrix = torch.tensor(2.659).exp() * (matrix / matrix.norm(dim=1, keepdim=True))
    _, top = (matrix @ torch.from_numpy(queries).T).topk(count, dim=0)
    return [[names[row] for row in column] for column in top.T.tolist()]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["float32", "float16", ">f8"])
def test_fromages_pickles(protocol, dtype, vectors, tmp_path):
    # Two files, as `cc3m_embeddings*.pkl`.
    rows = vectors.astype(dtype)
    files = [
        dump(tmp_path / "cc3m_embeddings0.pkl", {"paths": URLS[:25], "embeddings": rows[:25]}, protocol),
        dump(tmp_path / "cc3m_embeddings1.pkl", {"paths": URLS[25:], "embeddings": rows[25:]}, protocol),
    ]
    report = convert(files, tmp_path / "index")
    assert report == {"images": 40, "width": 16, "skipped": [], "again": 0}
    queries = np.random.default_rng(2).normal(size=(6, 16)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    assert found(tmp_path / "index", queries) == best(URLS, rows.astype(np.float32), queries)
    lines = (tmp_path / "index" / "v000001" / "items.jsonl").read_text().splitlines()
    assert [json.loads(line)["payload"] for line in lines] == [{"image": url} for url in URLS]


@pytest.mark.parametrize("kind", ["tensors", "arrays", "column order", "object file", "latin paths"])
def test_the_other_forms(kind, vectors, tmp_path):
    path, paths = tmp_path / "cc3m_embeddings_urls.npy", None  # GILL's name for a pickle
    if kind == "tensors":  # as both extraction scripts write them, one tensor a picture
        batch = torch.from_numpy(vectors).bfloat16()
        dump(path, {"paths": URLS, "embeddings": [row[None, None][0, 0, :] for row in batch]})
        vectors = batch.float().numpy()
    elif kind == "arrays":
        dump(path, {"paths": URLS, "embeddings": list(vectors)})
    elif kind == "column order":
        dump(path, {"paths": np.array(URLS), "embeddings": np.asfortranarray(vectors)})
    elif kind == "object file":
        np.save(path, {"paths": URLS, "embeddings": vectors}, allow_pickle=True)
    else:
        np.save(path, vectors)
        paths = tmp_path / "paths.txt"
        paths.write_text("\n".join(URLS) + "\n")
    convert([path], tmp_path / "index", paths_file=paths)
    queries = vectors[:7] / np.linalg.norm(vectors[:7], axis=1, keepdims=True)
    assert found(tmp_path / "index", queries) == best(URLS, vectors, queries)
    assert [row[0] for row in found(tmp_path / "index", queries)] == URLS[:7]


def test_bad_vectors_and_repeated_paths_are_counted(vectors, tmp_path):
    vectors[3] = 0
    vectors[5, 2] = np.nan
    names = [*URLS[:39], URLS[0]]
    report = convert([dump(tmp_path / "e.pkl", {"paths": names, "embeddings": vectors})], tmp_path / "index")
    assert (report["images"], report["again"]) == (37, 1)
    assert [entry["item"] for entry in report["skipped"]] == [URLS[3], URLS[5]]
    assert ("image", URLS[3]) not in RetrievalIndex.load(tmp_path / "index")
    first = (vectors[0] / np.linalg.norm(vectors[0]))[None]
    assert found(tmp_path / "index", first, 1) == [[URLS[0]]]  # what came first stays


class Call:
    """Pickled, it asks that a function be called."""

    def __init__(self, function, *arguments):
        self.asked = (function, arguments)

    def __reduce__(self):
        return self.asked


def state_on_function(state: bytes) -> bytes:
    """Changes a function that the reader knows, by the state that follows it."""
    return b"\x80\x04cnumpy\ndtype\n" + state + b"b."


HOSTILE = {
    "system": lambda mark: pickle.dumps(Call(os.system, f"touch {mark}")),
    "eval": lambda mark: pickle.dumps(Call(eval, f"open({str(mark)!r}, 'w')")),
    "open": lambda mark: pickle.dumps({"paths": [Call(open, str(mark), "w")], "embeddings": np.ones((1, 2))}),
    "getattr": lambda mark: pickle.dumps(Call(getattr, "a", "upper")),
    "numpy load": lambda mark: pickle.dumps(Call(np.load, str(mark))),
    "codec": lambda mark: pickle.dumps(Call(codecs.encode, "a", "rot13")),
    "object": lambda mark: pickle.dumps(Call(copyreg._reconstructor, object, object, None)),
    "torch storage": lambda mark: pickle.dumps(
        Call(torch.storage._load_from_bytes, pickle.dumps(Call(os.system, f"touch {mark}")))
    ),
    "state": lambda mark: state_on_function(b"(Nt"),
    "attributes": lambda mark: state_on_function(b"}X\x05\x00\x00\x00_makeNs"),
    "slots": lambda mark: state_on_function(b"N}X\x05\x00\x00\x00_makeNs\x86"),
    "memory": lambda mark: pickle.dumps(Call(np._core.multiarray._reconstruct, np.ndarray, (2**40,), b"b")),
    "persistent": lambda mark: b"\x80\x04Pevil\n.",
    "cut short": lambda mark: pickle.dumps({"paths": URLS, "embeddings": np.ones((40, 4))})[:-30],
    "empty": lambda mark: b"",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("wrapped", [False, True], ids=["pickle", "npy"])
def test_nothing_of_a_hostile_file_is_run(name, wrapped, tmp_path):
    mark, path = tmp_path / "was_run", tmp_path / "embeddings.pkl"
    content = HOSTILE[name](mark)
    if wrapped:  # behind the head of a numpy file of one object
        head = b"{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(117) + b"\n"
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + content
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"embeddings\.pkl"):
        convert([path], tmp_path / "index")
    assert not mark.exists()
    assert not (tmp_path / "index").exists()
    # Nor is the next file read in another way.
    good = {"paths": URLS[:2], "embeddings": np.ones((2, 3))}
    assert read_arrays(dump(path, good))["embeddings"].tolist() == [[1, 1, 1], [1, 1, 1]]


def test_the_message_names_what_was_asked_for(tmp_path):
    with pytest.raises(ValueError, match=r"posix\.system"):
        read_arrays(dump(tmp_path / "e.pkl", Call(os.system, "true")))


def test_arrays_are_checked_against_their_bytes(tmp_path):
    whole = pickle.dumps({"paths": URLS, "embeddings": np.ones((40, 4), np.float32)}, protocol=4)
    assert whole.count(b"K(K\x04\x86") == 1  # the shape (40, 4)
    (tmp_path / "e.pkl").write_bytes(whole.replace(b"K(K\x04\x86", b"K(K\x05\x86"))
    with pytest.raises(ValueError, match="200 values"):
        read_arrays(tmp_path / "e.pkl")


def test_what_does_not_fit_is_named(vectors, tmp_path):
    def attempt(content, message, error=ValueError, **options):
        with pytest.raises(error, match=message):
            convert([dump(tmp_path / "e.pkl", content)], tmp_path / "index", **options)

    attempt({"paths": URLS[:3], "embeddings": vectors}, "3 paths and 40 embeddings")
    attempt({"paths": URLS, "embeddings": vectors[:, 0]}, "no array .images, width.")
    attempt({"paths": URLS, "embeddings": vectors.astype(int)}, "no array")
    attempt({"paths": URLS, "embeddings": [*vectors[:39], vectors[0, :3]]}, r"e\.pkl: .*same shape")
    attempt({"paths": [7, *URLS[1:]], "embeddings": vectors}, "the path 7 is int")
    attempt({"ids": URLS, "embeddings": vectors}, r"\['embeddings', 'ids'\], not paths")
    attempt(vectors, "pass --paths")
    attempt({"paths": URLS, "embeddings": vectors * 0}, "No usable vector")
    attempt({"paths": URLS, "embeddings": vectors}, "has paths of its own", paths_file=tmp_path / "p.txt")
    attempt(vectors, r"p\.txt", FileNotFoundError, paths_file=tmp_path / "p.txt")
    with pytest.raises(FileNotFoundError, match=r"absent\.pkl"):
        read_embeddings(tmp_path / "absent.pkl")
    narrow = dump(tmp_path / "n.pkl", {"paths": ["x"], "embeddings": vectors[:1, :4]})
    wide = dump(tmp_path / "e.pkl", {"paths": URLS, "embeddings": vectors})
    with pytest.raises(ValueError, match=r"e\.pkl has 16"):
        convert([wide, narrow], tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_command_line_checks_the_model(vectors, pair, tmp_path, monkeypatch, capsys):
    model, _ = pair
    model.save_pretrained(tmp_path / "model")
    wide = np.random.default_rng(3).normal(size=(40, model.config.embedding_width)).astype(np.float32)
    right = dump(tmp_path / "right.pkl", {"paths": URLS, "embeddings": wide})
    wrong = dump(tmp_path / "wrong.pkl", {"paths": URLS, "embeddings": vectors})
    options = ["--model", str(tmp_path / "model")]
    monkeypatch.setattr("sys.argv", ["convert", str(wrong), str(tmp_path / "index"), *options])
    with pytest.raises(ValueError, match=r"16 numbers.* has 24"):
        main()
    monkeypatch.setattr("sys.argv", ["convert", str(right), str(tmp_path / "index"), *options])
    main()
    assert capsys.readouterr().out.strip() == str(tmp_path / "index")
    assert len(RetrievalIndex.load(tmp_path / "index")) == 40
