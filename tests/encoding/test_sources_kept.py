"""What an index of several sources, of mixed ones and of ones that shrink keeps: no source takes from another, and
nothing is removed because it was not seen."""

import errno
import json
import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from modeling_unimur.cli.main import main
from modeling_unimur.encoding.build import build_index
from modeling_unimur.encoding.sources import list_items
from tests.encoding.corpora import assert_same_content, content, image_folder, options, picture
from tests.encoding.test_sources import png, tar_file


def ids(uri) -> set[str]:
    return {name for _, name in content(uri)}


def table(path: Path, texts: list[str], **columns) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": texts, **columns}), path)


# -- how a folder is read -----------------------------------------------------------------------------------------
def drop_archive(folder):
    tar_file(folder / "backup.tar", {"000.png": png(50)})
    return {"backup.tar/000"}


def drop_table(folder):
    table(folder / "more.parquet", ["one", "two"])
    return {"more.parquet:0", "more.parquet:1"}


def drop_both(folder):
    return drop_archive(folder) | drop_table(folder)


def drop_empty_archive(folder):
    (folder / "empty.tar").write_bytes(bytes(10240))
    return set()


def drop_lines(folder):
    (folder / "notes.jsonl").write_text('{"text": "note"}\n')
    (folder / "README.txt").write_text("read me\n")
    return set()  # captions and notes lie in many folders of images


@pytest.mark.parametrize("drop", [drop_archive, drop_table, drop_both, drop_empty_archive, drop_lines])
def test_what_is_dropped_beside_images_removes_none(encoder, corpus, tmp_path, drop):
    before = {f"{'ab'[number % 2]}/{number}.png" for number in range(12)}
    build_index(corpus, encoder, tmp_path / "index", options())
    more = drop(corpus)
    report = build_index(corpus, encoder, tmp_path / "index", options(), must_exist=True)
    assert (report.added, report.replaced, report.removed) == (len(more), 0, 0)
    assert ids(tmp_path / "index") == before | more
    # A mixed folder is read as what it holds, at first too.
    build_index(corpus, encoder, tmp_path / "anew", options())
    assert_same_content(content(tmp_path / "anew"), content(tmp_path / "index"))
    for path in corpus.iterdir():
        if path.suffix in (".tar", ".parquet"):
            path.unlink()
    report = build_index(corpus, encoder, tmp_path / "index", options())
    assert (report.removed, ids(tmp_path / "index")) == (len(more), before)


@pytest.mark.parametrize("begun", [drop_archive, drop_table])
def test_an_image_beside_archives_and_tables_removes_nothing(encoder, tmp_path, begun):
    folder = tmp_path / "corpus"
    folder.mkdir()
    first = begun(folder)
    build_index(folder, encoder, tmp_path / "index", options())
    assert ids(tmp_path / "index") == first
    picture(folder / "preview.png", 3)
    report = build_index(folder, encoder, tmp_path / "index", options())
    assert (report.added, report.removed) == (1, 0)
    more = drop_both(folder)
    build_index(folder, encoder, tmp_path / "index", options())
    assert ids(tmp_path / "index") == first | more | {"preview.png"}


def test_a_folder_of_lines_stays_one(encoder, tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("one\ntwo\n")
    (folder / "b.jsonl").write_text('{"text": "three"}\n{"id": "own", "text": "four"}\n')
    build_index(folder, encoder, tmp_path / "index", options())
    assert ids(tmp_path / "index") == {"a.txt:1", "a.txt:2", "b.jsonl:1", "own"}
    picture(folder / "sub" / "c.png", 1)
    more = drop_both(folder)
    report = build_index(folder, encoder, tmp_path / "index", options())
    assert (report.added, report.removed) == (4, 0)
    assert ids(tmp_path / "index") == {"a.txt:1", "a.txt:2", "b.jsonl:1", "own", "sub/c.png"} | more


# -- several sources ----------------------------------------------------------------------------------------------
def images(folder, seed):
    for number in range(3):
        picture(folder / f"IMG_000{number}.png", seed + number)
    return folder, [f"IMG_000{number}.png" for number in range(3)]


def lines(folder, seed):
    folder.mkdir()
    (folder / "passages.txt").write_text("".join(f"text {seed + number}\n" for number in range(3)))
    return folder / "passages.txt", [f"passages.txt:{number}" for number in (1, 2, 3)]


def records(folder, seed):
    folder.mkdir()
    written = "".join(json.dumps({"text": f"text {seed + number}"}) + "\n" for number in range(3))
    (folder / "passages.jsonl").write_text(written)
    return folder / "passages.jsonl", [f"passages.jsonl:{number}" for number in (1, 2, 3)]


def rows(folder, seed):
    table(folder / "t.parquet", [f"text {seed + number}" for number in range(3)])
    return folder / "t.parquet", [f"t.parquet:{number}" for number in range(3)]


def archive(folder, seed):
    folder.mkdir()
    tar_file(folder / "00000.tar", {f"{number}.png": png(seed + number) for number in range(3)})
    return folder / "00000.tar", [f"00000.tar/{number}" for number in range(3)]


def folder_of_archives(folder, seed):
    return archive(folder, seed)[0].parent, [f"00000.tar/{number}" for number in range(3)]


def pattern(folder, seed):
    folder.mkdir()
    for part in ("x", "y"):
        lines(folder / part, seed + 1000 * ord(part))
    return f"{folder}/*/passages.txt", [f"{part}/passages.txt:{number}" for part in "xy" for number in (1, 2, 3)]


KINDS = [images, lines, records, rows, archive, folder_of_archives, pattern]


@pytest.mark.parametrize("make", KINDS)
def test_equal_names_in_two_sources_are_two_items(counting, tmp_path, make):
    (tmp_path / "A").mkdir()
    first, names = make(tmp_path / "A" / "corpus", 100)
    (tmp_path / "B").mkdir()
    second, _ = make(tmp_path / "B" / "corpus", 200)
    uri = tmp_path / "index"
    build_index(first, counting, uri, options())
    report = build_index(second, counting, uri, options())
    assert (report.added, report.replaced, report.removed, report.skipped) == (len(names), 0, 0, 0)
    found = content(uri)
    assert len(found) == 2 * len(names)
    assert set(names) <= ids(uri)  # the first keeps the ids that it would have alone
    others = ids(uri) - set(names)
    assert others == {f"corpus/{name}" for name in names}
    for source in (first, second):
        again = build_index(source, counting, uri, options())
        assert (again.unchanged, again.encoded, again.added, again.removed) == (len(names), 0, 0, 0)
    # What goes from the first is what is removed.
    if make is images:
        Path(first, names[0]).unlink()
        report = build_index(first, counting, uri, options())
        assert (report.removed, report.items) == (1, 2)
        assert ids(uri) == set(names[1:]) | others
    payloads = {json.dumps(payload, sort_keys=True) for payload, _ in found.values()}
    assert len(payloads) == 2 * len(names)


def test_three_folders_of_one_name(encoder, tmp_path):
    for number, place in enumerate("ABC"):
        images(tmp_path / place / "photos", 10 * number)
        build_index(tmp_path / place / "photos", encoder, tmp_path / "index", options())
    expected = {f"{prefix}IMG_000{number}.png" for prefix in ("", "photos/", "photos-2/") for number in range(3)}
    assert ids(tmp_path / "index") == expected


def test_a_prefix_is_no_folder_of_an_earlier_source(encoder, tmp_path):
    picture(tmp_path / "all" / "B" / "x.png", 1)
    picture(tmp_path / "B" / "x.png", 2)
    for name in ("all", "B"):
        build_index(tmp_path / name, encoder, tmp_path / "index", options())
    assert ids(tmp_path / "index") == {"B/x.png", "B-2/x.png"}


def test_an_id_that_a_record_gives_is_kept_and_never_taken_from_another_source(encoder, tmp_path):
    for place, number in (("A", 1), ("B", 2)):
        (tmp_path / place).mkdir()
        found = [{"id": "same", "text": f"text {number}"}, {"id": f"own{number}", "text": f"mine {number}"}]
        (tmp_path / place / "x.jsonl").write_text("".join(json.dumps(record) + "\n" for record in found))
    first, second, uri = tmp_path / "A" / "x.jsonl", tmp_path / "B" / "x.jsonl", tmp_path / "index"
    build_index(first, encoder, uri, options())
    report = build_index(second, encoder, uri, options())
    assert (report.added, report.replaced, report.skipped) == (1, 0, 1)
    assert report.reasons == {"the id of a text of another source; give it another": 1}
    assert content(uri)["text", "same"][0] == {"text": "text 1"}
    assert ids(uri) == {"same", "own1", "own2"}
    # What the second has with this id does not keep the first's from going, and takes its place then.
    first.write_text('{"id": "own1", "text": "mine 1"}\n')
    build_index(first, encoder, uri, options())
    assert ids(uri) == {"own1", "own2"}
    assert build_index(second, encoder, uri, options()).added == 1
    assert content(uri)["text", "same"][0] == {"text": "text 2"}


def test_files_of_one_name_in_a_pattern_are_kept_apart(encoder, tmp_path):
    (tmp_path / "data").mkdir()
    for part in "xy":
        archive(tmp_path / "data" / part, ord(part))
        rows(tmp_path / "data" / part, ord(part))
    for source in (f"{tmp_path}/data/*/00000.tar", f"{tmp_path}/data/{{x,y}}/t.parquet"):
        report = build_index(source, encoder, tmp_path / "index", options())
        assert (report.added, report.skipped) == (6, 0)
    with pytest.raises(ValueError, match="built from"):
        build_index(f"{tmp_path}/data/?/00000.tar", encoder, tmp_path / "index", options(), must_exist=True)


# -- what is not seen ---------------------------------------------------------------------------------------------
def test_many_losses_are_asked_for(release_folder, tmp_path, capsys):
    folder, index = image_folder(tmp_path / "corpus", 60), tmp_path / "index"
    common = [str(folder), "--model", str(release_folder), "--index", str(index), "--workers", "0"]
    assert main(["index", "build", *common]) == 0
    for number in range(21):
        (folder / "ab"[number % 2] / f"{number}.png").unlink()
    picture(folder / "new.png", 500)
    version = (index / "CURRENT").read_text()
    capsys.readouterr()
    for action in ("update", "build", "update"):
        assert main(["index", action, *common]) == 2
        error = capsys.readouterr().err
        assert "--prune" in error
        assert "21 of the 60" in error
        assert (index / "CURRENT").read_text() == version
    picture(folder / "a" / "0.png", 0)  # 20 are few enough
    assert main(["index", "update", *common]) == 0
    assert "20 removed" in capsys.readouterr().out
    for number in range(21, 50):
        (folder / "ab"[number % 2] / f"{number}.png").unlink()
    assert main(["index", "update", *common]) == 2
    assert main(["index", "update", *common, "--prune"]) == 0
    assert "29 removed" in capsys.readouterr().out
    assert len(content(index)) == 60 + 1 - 20 - 29


def test_what_goes_bad_is_a_loss(encoder, tmp_path):
    folder = image_folder(tmp_path / "corpus", 30)
    build_index(folder, encoder, tmp_path / "index", options())
    for path in folder.rglob("*.png"):
        path.write_bytes(b"a disk that fails")
    for _ in range(2):
        with pytest.raises(ValueError, match="prune"):
            build_index(folder, encoder, tmp_path / "index", options())
    assert len(content(tmp_path / "index")) == 30
    image_folder(folder, 30)  # mended
    report = build_index(folder, encoder, tmp_path / "index", options())
    assert (report.items, report.removed, report.skipped) == (30, 0, 0)
    for path in folder.rglob("*.png"):
        path.write_bytes(b"a disk that fails")
    assert build_index(folder, encoder, tmp_path / "index", options(prune=True)).removed == 30


def test_a_tenth_of_many_goes_unasked(encoder, tmp_path):
    folder = tmp_path / "corpus"
    (folder / "sub").mkdir(parents=True)
    tar_file(folder / "a.tar", {f"{number}.txt": f"text {number}".encode() for number in range(300)})
    build_index(folder, encoder, tmp_path / "index", options(chunk_size=400, batch_size=100))
    tar_file(folder / "a.tar", {f"{number}.txt": f"text {number}".encode() for number in range(270)})
    assert build_index(folder, encoder, tmp_path / "index", options(chunk_size=400, batch_size=100)).removed == 30
    tar_file(folder / "a.tar", {f"{number}.txt": f"text {number}".encode() for number in range(240)})
    with pytest.raises(ValueError, match="30 of the 270"):
        build_index(folder, encoder, tmp_path / "index", options(chunk_size=400, batch_size=100))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOTCONN])
def test_a_folder_that_cannot_be_listed_removes_nothing(encoder, corpus, tmp_path, monkeypatch, number):
    uri, listed = tmp_path / "index", os.scandir
    build_index(corpus, encoder, uri, options())
    before = content(uri)
    picture(corpus / "new.png", 77)
    refused = {str(corpus / "a")}

    def scandir(path="."):
        if isinstance(path, (str, os.PathLike)) and os.fspath(path) in refused:
            raise OSError(number, os.strerror(number), os.fspath(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    for prune in (False, True):
        with pytest.raises(OSError, match=r"a of .*6 items"):
            build_index(corpus, encoder, uri, options(prune=prune))
        assert_same_content(content(uri), before)
    refused = {str(corpus)}
    with pytest.raises(OSError, match=str(corpus)):
        build_index(corpus, encoder, uri, options(prune=True))
    # One that nothing came from is reported, and no more.
    (corpus / "lost+found").mkdir()
    refused = {str(corpus / "lost+found")}
    report = build_index(corpus, encoder, uri, options())
    assert (report.added, report.removed, report.reasons) == (1, 0, {"the folder cannot be listed": 1})
    (corpus / "b" / "1.png").unlink()
    assert build_index(corpus, encoder, uri, options()).removed == 1
    refused = set()
    assert build_index(corpus, encoder, uri, options()).unchanged == 12


def test_files_that_cannot_be_looked_at_are_not_gone(encoder, corpus, tmp_path, monkeypatch):
    build_index(corpus, encoder, tmp_path / "index", options())
    looked = os.stat

    def stat(path, *arguments, **options):
        if os.fspath(path) == str(corpus / "a" / "0.png"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), os.fspath(path))
        return looked(path, *arguments, **options)

    monkeypatch.setattr("modeling_unimur.data.image_bytes.os.stat", stat)
    with pytest.raises(OSError, match=r"a/0\.png"):
        build_index(corpus, encoder, tmp_path / "index", options())
    assert len(content(tmp_path / "index")) == 12


@pytest.mark.parametrize("damage", ["cut", "garbage"])
@pytest.mark.parametrize("make", [archive, rows, folder_of_archives])
def test_what_lies_behind_a_damaged_file_stays(encoder, tmp_path, make, damage):
    source, _ = make(tmp_path / "corpus", 5)
    uri = tmp_path / "index"
    (file,) = [source] if source.is_file() else list(source.glob("*.tar"))
    table(tmp_path / "corpus" / "u.parquet", ["kept"])
    source = f"{file.parent}/{{{file.name},{file.name}}}" if file == source else source
    build_index(source, encoder, uri, options())
    before = content(uri)
    whole = file.read_bytes()
    file.write_bytes(whole[: min(1000, len(whole) // 2)] if damage == "cut" else b"garbage" * 1000)
    with pytest.raises((OSError, ValueError)):
        build_index(source, encoder, uri, options(prune=True))
    assert_same_content(content(uri), before)
    file.write_bytes(whole)
    assert build_index(source, encoder, uri, options()).removed == 0


def test_a_source_that_is_gone(encoder, corpus, tmp_path):
    build_index(corpus, encoder, tmp_path / "index", options())
    shutil.rmtree(corpus)
    for prune in (False, True):
        with pytest.raises(FileNotFoundError, match="There is no"):
            build_index(corpus, encoder, tmp_path / "index", options(prune=prune), must_exist=True)
    corpus.mkdir()  # where a drive was mounted
    with pytest.raises(ValueError, match="12 items"):
        build_index(corpus, encoder, tmp_path / "index", options(prune=True), must_exist=True)
    assert len(content(tmp_path / "index")) == 12


def test_a_file_that_comes_back_is_in_again(encoder, corpus, tmp_path, monkeypatch):
    """Also if the run that missed it did not end: what was marked as gone is looked at anew."""
    build_index(corpus, encoder, tmp_path / "index", options())
    aside = tmp_path / "aside.png"
    (corpus / "a" / "0.png").rename(aside)
    with monkeypatch.context() as patch:
        patch.setattr("modeling_unimur.encoding.build.bring_up_to_date", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build_index(corpus, encoder, tmp_path / "index", options())
    aside.rename(corpus / "a" / "0.png")
    report = build_index(corpus, encoder, tmp_path / "index", options())
    assert (report.items, report.encoded) == (12, 0)
    assert "a/0.png" in ids(tmp_path / "index")


def test_a_content_that_is_changed_behind_its_time_is_seen(counting, corpus, tmp_path):
    build_index(corpus, counting, tmp_path / "index", options())
    path = corpus / "a" / "0.png"
    before, data = path.stat(), path.read_bytes()
    picture(tmp_path / "other.png", 500)
    other = (tmp_path / "other.png").read_bytes()
    size = max(len(data), len(other))
    path.write_bytes(data + bytes(size - len(data)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    build_index(corpus, counting, tmp_path / "index", options())
    seen = counting.seen
    path.write_bytes(other + bytes(size - len(other)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert build_index(corpus, counting, tmp_path / "index", options()).replaced == 1
    assert counting.seen == seen + 1


# -- other times and places ---------------------------------------------------------------------------------------
def make_old(work: Path) -> None:
    """Turns a manifest into one of the version before sources were kept: no readings, and times without changes."""
    database = sqlite3.connect(work / "manifest.sqlite")
    database.execute("DELETE FROM facts WHERE name LIKE 'source=%'")
    database.execute("UPDATE items SET stamp = 'old'")
    database.execute("DROP INDEX pending")
    database.execute("CREATE INDEX waiting ON items (place) WHERE indexed = 0")
    database.commit()
    database.close()


@pytest.mark.parametrize("make", [kind for kind in KINDS if kind is not pattern])
def test_an_index_of_an_earlier_version_keeps_its_ids(counting, tmp_path, make):
    source, names = make(tmp_path / "corpus", 1)
    uri = tmp_path / "index"
    build_index(source, counting, uri, options())
    make_old(tmp_path / "index.encoding")
    seen, before = counting.seen, content(uri)
    report = build_index(source, counting, uri, options(), must_exist=True)
    assert (report.items, report.encoded, report.added, report.replaced, report.removed) == (len(names), 0, 0, 0, 0)
    assert counting.seen == seen
    assert_same_content(content(uri), before)
    other, _ = make(tmp_path / "more", 50)
    assert build_index(other, counting, uri, options()).added == len(names)
    assert set(names) < ids(uri)


def test_two_sources_of_an_earlier_version_take_nothing_from_each_other(counting, tmp_path):
    """There their ids had met: the first's were the second's."""
    first, names = images(tmp_path / "A", 1)
    second, _ = images(tmp_path / "B", 50)
    uri = tmp_path / "index"
    build_index(first, counting, uri, options())
    make_old(tmp_path / "index.encoding")
    database = sqlite3.connect(tmp_path / "index.encoding" / "manifest.sqlite")
    database.execute("UPDATE items SET source = ? WHERE id = ?", (str(second), names[0]))
    database.commit()
    database.close()
    for source in (first, second):
        report = build_index(source, counting, uri, options())
        assert report.removed == 0
        assert sum(report.reasons.values()) == report.skipped > 0
        assert ids(uri) == set(names)


def test_patterns_of_an_earlier_version_go_on_by_names(encoder, tmp_path):
    source, _ = pattern(tmp_path / "corpus", 1)
    shutil.rmtree(tmp_path / "corpus" / "y")
    uri = tmp_path / "index"
    build_index(tmp_path / "corpus" / "x" / "passages.txt", encoder, uri, options())
    make_old(tmp_path / "index.encoding")
    database = sqlite3.connect(tmp_path / "index.encoding" / "manifest.sqlite")
    database.execute("UPDATE items SET source = ?", (source,))
    database.commit()
    database.close()
    report = build_index(source, encoder, uri, options(), must_exist=True)
    assert (report.added, report.removed) == (0, 0)
    assert ids(uri) == {f"passages.txt:{number}" for number in (1, 2, 3)}


def test_a_source_that_has_moved(counting, corpus, tmp_path):
    uri = tmp_path / "index"
    build_index(corpus, counting, uri, options())
    corpus.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="moved-from"):
        build_index(tmp_path / "elsewhere", counting, uri, options(), must_exist=True)
    with pytest.raises(ValueError, match="moved"):
        build_index(tmp_path / "elsewhere", counting, uri, options(moved_from=str(tmp_path / "nowhere")))
    moved = options(moved_from=str(corpus))
    report = build_index(tmp_path / "elsewhere", counting, uri, moved, must_exist=True)
    assert (report.items, report.replaced, report.added, report.removed, counting.seen) == (12, 12, 0, 0, 12)
    payloads = {payload["image"] for payload, _ in content(uri).values()}
    assert all(Path(path).is_file() for path in payloads)


def test_ids_do_not_depend_on_the_working_folder(encoder, tmp_path, monkeypatch):
    pattern(tmp_path / "corpus", 1)
    from_above = [item.id for item in list_items(f"{tmp_path}/corpus/*/passages.txt")]
    monkeypatch.chdir(tmp_path / "corpus")
    assert [item.id for item in list_items("*/passages.txt")] == from_above
    monkeypatch.chdir(tmp_path / "corpus" / "x")
    assert [item.id for item in list_items("passages.txt")] == [f"passages.txt:{number}" for number in (1, 2, 3)]


def test_vectors_of_two_sources_are_their_own(encoder, tmp_path):
    for place, seed in (("A", 1), ("B", 50)):
        images(tmp_path / place, seed)
        build_index(tmp_path / place, encoder, tmp_path / "index", options())
        build_index(tmp_path / place, encoder, tmp_path / f"alone-{place}", options())
    found = content(tmp_path / "index")
    for prefix, place in (("", "A"), ("B/", "B")):
        for (kind, name), (payload, vector) in content(tmp_path / f"alone-{place}").items():
            assert found[kind, f"{prefix}{name}"][0] == payload
            np.testing.assert_allclose(found[kind, f"{prefix}{name}"][1], vector, atol=1e-6)
