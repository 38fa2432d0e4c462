"""The manuals' reader: on small manuals in exactly the formats of DocBook and Sphinx, and on the real GIMP manual."""

import re
from collections import Counter, defaultdict

import pytest
from PIL import Image

from tests.installable import loaded_or_skipped
from unimur_mini.manuals.descriptions import DEBIAN_HANDBOOK, GIMP, Description
from unimur_mini.manuals.pages import read_folder, read_page, sentence_spans, without_number
from unimur_mini.manuals.queries import index_entries
from unimur_mini.manuals.tables import load_manual, manual_folder, read_manual, read_tables, write_tables

HEAD = """<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml">
  <head>
    <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
    <title>{title}</title>
    <link rel="home" href="index.html" title="GNU Image Manipulation Program" />
    <link rel="up" href="{up}" title="up" />
  </head>
  <body>
    <div class="navheader"><table summary="Navigation header"><tr><th>{title}</th></tr></table><hr /></div>
"""
FOOT = """
    <div class="navfooter"><hr /><a href="https://gitlab.gnome.org/GNOME/gimp/issues" class="reportbug">Report a bug
      in GIMP</a></div>
  </body>
</html>
"""
CROP = """    <div class="sect2">
      <div class="titlepage"><div><div><h3 class="title"><a id="gimp-tool-crop"></a>4.4. Crop</h3></div></div></div>
      <a id="idm15121" class="indexterm"></a>
      <div class="figure">
        <a id="idm15130"></a>
        <p class="title">
          <strong>Figure 14.127. Example for
            <span class="quote">“<span class="quote">Allow Growing</span>”</span></strong>
        </p>
        <div class="figure-contents">
          <div class="mediaobject">
            <img src="images/grow-1.png" alt="Allow Growing" />
            <div class="caption"><p>An image that lies on
              a big canvas <img src="images/icon.png" alt="" /></p></div>
          </div>
          <div class="mediaobject">
            <img src="images/grow-2.png" alt="Allow Growing" />
            <div class="caption"><p>The resulting image.</p></div>
          </div>
        </div>
      </div>
      <br class="figure-break" />
      <p>
    The Crop Tool is used to crop or clip an image.
  </p>
      <div class="tip"><table border="0" summary="Tip">
        <tr><td rowspan="2" align="center"><img alt="[Tip]" src="images/tip.png" /></td><th align="left">Tip</th></tr>
        <tr><td align="left" valign="top"><p>
      You can use <a class="link" href="gimp-guides.html" title="2.2. Guides">Guides</a> to position the dashed crop
      area precisely (see <a class="xref" href="gimp-guides.html#grid" title="Grid">Section 2.3, “Grid”</a>).
      It works with <a class="link" href="#crop-options">options</a>.
      </p></td></tr></table></div>
      <div class="sect3">
        <div class="titlepage"><div><div>
          <h4 class="title"><a id="crop-options"></a>4.4.1. Options</h4>
        </div></div></div>
        <p>If you open the settings, everything is shown.</p>
        <div class="variablelist"><dl class="variablelist">
          <dt><span class="term">Fixed<sup class="footnote">[5]</sup></span></dt>
          <dd><p>Only <em>Width</em> stays.</p></dd>
        </dl></div>
      </div>
    </div>
"""
GUIDES = """    <div class="sect2">
      <div class="titlepage"><div><div><h3 class="title"><a id="gimp-guides"></a>2.2. Guides</h3></div></div></div>
      <p>Lines that help to align.</p>
      <p>If you open the settings, everything is shown.</p>
      <div class="sect3">
        <div class="titlepage"><div><div><h4 class="title"><a id="grid"></a>2.2.1. Grid</h4></div></div></div>
        <p>A raster over the picture.</p>
      </div>
    </div>
"""
GLOSSARY = """    <div class="glossary">
      <div class="titlepage"><div><div><h1 class="title"><a id="glossary"></a>Glossary</h1></div></div></div>
      <dl>
        <dt><a id="glossary-alpha"></a><span class="glossterm"><span class="phrase">Alpha</span></span></dt>
        <dd class="glossdef"><p>How transparent a pixel is.</p></dd>
        <dt><span class="glossterm"><span class="phrase">Beta</span></span></dt>
        <dd class="glossdef"><p>TODO</p></dd>
      </dl>
    </div>
"""
INDEX = """    <div class="index"><div class="indexdiv"><h3>C</h3><dl>
      <dt id="ientry-1">Crop, <a class="indexterm" href="gimp-tool-crop.html">Crop</a>, <a class="indexterm"
        href="gimp-guides.html#grid">Grid</a></dt>
      <dt id="ientry-2">Tools</dt>
      <dd><dl><dt>Guide lines, <a class="indexterm" href="gimp-guides.html">Guides</a></dt></dl></dd>
      <dt>Alpha, <a class="indexterm" href="glossary.html">Glossary</a></dt>
    </dl></div></div>
"""
PAGES = {
    "gimp-tool-crop.html": ("4.4. Crop", "chapter.html", CROP),
    "gimp-guides.html": ("2.2. Guides", "chapter.html", GUIDES),
    "chapter.html": ("Chapter 14. Basics", "index.html", "<div class='chapter'></div>"),
    "glossary.html": ("Glossary", "index.html", GLOSSARY),
    "gimp-help-index.html": ("Index", "index.html", INDEX),
    "index.html": ("GNU Image Manipulation Program", "", "<div class='book'></div>"),
}


def page_html(name):
    title, up, body = PAGES[name]
    return HEAD.format(title=title, up=up) + body + FOOT


@pytest.fixture
def folder(tmp_path):
    for name in PAGES:
        (tmp_path / name).write_text(page_html(name), encoding="utf-8")
    (tmp_path / "images").mkdir()
    for name in ("grow-1.png", "grow-2.png", "icon.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / name)
    return tmp_path


@pytest.fixture(scope="module")
def manual():
    return loaded_or_skipped(lambda: manual_folder(GIMP))


@pytest.fixture(scope="module")
def tables(manual):
    return load_manual(GIMP)


def test_sections_paragraphs_links_and_figures_of_a_page():
    page = read_page("gimp-tool-crop.html", page_html("gimp-tool-crop.html"))
    assert [section.path for section in page.sections] == [("Crop",), ("Crop", "Options")]
    assert page.up == "chapter.html"
    assert (page.anchors["gimp-tool-crop"], page.anchors["crop-options"]) == (0, 1)
    first, tip = page.sections[0].paragraphs
    assert first.text == "The Crop Tool is used to crop or clip an image."
    assert tip.text == (
        "You can use Guides to position the dashed crop area precisely (see Section 2.3, “Grid”). "
        "It works with options."
    )
    assert [(tip.text[link.start : link.end], link.page, link.anchor) for link in tip.links] == [
        ("Guides", "gimp-guides.html", ""),
        ("Section 2.3, “Grid”", "gimp-guides.html", "grid"),
        ("options", "gimp-tool-crop.html", "crop-options"),
    ]
    assert page.sections[1].paragraphs[-1].text == "Fixed: Only Width stays."
    (figure,) = page.sections[0].figures
    assert figure.title == "Example for “Allow Growing”"
    # The icon inside the caption is no picture of the figure.
    assert [(image.file, image.caption) for image in figure.images] == [
        ("images/grow-1.png", "An image that lies on a big canvas"),
        ("images/grow-2.png", "The resulting image."),
    ]


def test_tables_of_a_small_manual(folder):
    rows = read_manual(folder, GIMP)
    corpus = {row["doc_id"]: row for row in rows["corpus"]["corpus"]}
    by_text = {row["text"]: doc_id for doc_id, row in corpus.items() if row["kind"] == "text"}
    source = next(doc_id for text, doc_id in by_text.items() if text.startswith("The Crop Tool"))
    assert corpus[source]["section"] == "Basics > Crop"
    assert corpus[source]["chapter"] == "Basics"
    # Merged once, and relevant to nothing although it stands in a section that is linked to.
    repeated = [row for row in corpus.values() if row["text"] == "If you open the settings, everything is shown."]
    assert len(repeated) == 1

    queries = [row for split in rows["queries"].values() for row in split]
    assert {row["kind"]: row["text"] for row in queries} == {
        "text": "You can use to position the dashed crop area precisely (see).",
        "figure": "An image that lies on a big canvas",
    }
    scores = defaultdict(dict)
    for row in (row for split in rows["qrels"].values() for row in split):
        scores[row["query_id"]][row["doc_id"]] = row["score"]
    text, figure = queries if queries[0]["kind"] == "text" else queries[::-1]
    assert text["excluded"] == [source]
    # "Guides" means its own passage; the grid is its subsection, and is linked to as well.
    assert scores[text["query_id"]] == {
        by_text["Lines that help to align."]: 2,
        by_text["A raster over the picture."]: 2,
    }
    graded = {corpus[doc_id]["image"]: score for doc_id, score in scores[figure["query_id"]].items()}
    assert graded == {"images/grow-1.png": 2, "images/grow-2.png": 1}
    assert all(row["text"] == "Example for “Allow Growing”" for row in corpus.values() if row["kind"] == "image")

    # "Beta" has nothing to find.
    terms = [row for split in rows["navigational_queries"].values() for row in split]
    assert {row["text"] for row in terms} == {"Crop", "Tools, Guide lines", "Alpha"}
    alpha = next(row["query_id"] for row in terms if row["text"] == "Alpha")
    relevant = [row for split in rows["navigational_qrels"].values() for row in split]
    assert [row["doc_id"] for row in relevant if row["query_id"] == alpha] == [by_text["How transparent a pixel is."]]
    guides = next(row["query_id"] for row in terms if row["text"] == "Tools, Guide lines")
    assert {row["doc_id"]: row["score"] for row in relevant if row["query_id"] == guides} == {
        by_text["Lines that help to align."]: 2,
        by_text["A raster over the picture."]: 1,
    }


def test_generated_questions_of_a_small_manual(folder):
    page = folder / "gimp-tool-crop.html"
    page.write_text(page.read_text(encoding="utf-8").replace(">Guides</a>", ">the guide lines</a>"), encoding="utf-8")
    rows = read_manual(folder, GIMP)
    texts = {row["doc_id"]: row["text"] for row in rows["corpus"]["corpus"]}
    found = {row["text"]: row for row in rows["generated_queries"]["train"]}
    assert set(found) == {
        "Guides, Basics", "Grid, Guides", "Crop, Basics", "Options, Crop", "Alpha, Glossary", "the guide lines"
    }  # fmt: skip
    link = found["the guide lines"]
    assert link["kind"] == "link"
    assert ["The Crop Tool" in texts[doc_id] for doc_id in link["excluded"]] == [True]
    qrels = [row for row in rows["generated_qrels"]["train"] if row["query_id"] == link["query_id"]]
    assert {texts[row["doc_id"]]: row["score"] for row in qrels} == {
        "Lines that help to align.": 2, "A raster over the picture.": 1
    }  # fmt: skip


def test_absent_pictures_and_folders(folder, tmp_path_factory):
    (folder / "images" / "grow-2.png").unlink()
    page = read_folder(folder)["gimp-tool-crop.html"]
    assert page.missing_images == 1
    assert [image.file for image in page.sections[0].figures[0].images] == ["images/grow-1.png"]
    with pytest.raises(FileNotFoundError, match=r"\.html"):
        read_folder(tmp_path_factory.mktemp("empty"))
    with pytest.raises(ValueError, match=r"x\.html"):
        read_page("x.html", "<html><head></head></html>")


def test_numbers_sentences_and_index():
    titles = [
        "Figure 14.127. Crop tool",
        "4.4. Crop",
        "Appendix E. GNU Free Documentation License",
        "2D tools",
        "Chapter 7. Paint",
    ]
    assert [without_number(title) for title in titles] == [
        "Crop tool",
        "Crop",
        "GNU Free Documentation License",
        "2D tools",
        "Paint",
    ]
    text = "Use a brush, e.g. The “Pencil.” Then stop! Done"
    assert [text[a:b] for a, b in sentence_spans(text)] == ["Use a brush, e.g. The “Pencil.”", "Then stop!", "Done"]
    entries = [
        (term, [(link.page, link.anchor) for link in links])
        for term, links in index_entries(INDEX, "gimp-help-index.html")
    ]
    assert entries == [
        ("Crop", [("gimp-tool-crop.html", ""), ("gimp-guides.html", "grid")]),
        ("Tools, Guide lines", [("gimp-guides.html", "")]),
        ("Alpha", [("glossary.html", "")]),
    ]


def test_counts_of_the_manual(tables):
    corpus = tables["corpus"]["corpus"]
    kinds = Counter(corpus["kind"])
    assert 4000 < kinds["text"] < 7000
    assert 1300 < kinds["image"] < 2200
    assert len(set(corpus["doc_id"])) == len(corpus)
    assert min(len(row["text"].split()) for row in corpus if row["kind"] == "text") >= 4
    contents = Counter(zip(corpus["kind"], corpus["text"], corpus["image"], strict=True))
    assert max(contents.values()) == 1
    for kind in ("text", "figure"):
        counts = {split: Counter(rows["kind"])[kind] for split, rows in tables["queries"].items()}
        total = sum(counts.values())
        assert total > 300
        assert counts["train"] / total == pytest.approx(0.55, abs=0.04)
        assert counts["test"] / total == pytest.approx(0.30, abs=0.04)
    assert sum(len(rows) for rows in tables["navigational_queries"].values()) > 1000
    assert len(tables["pairs"]["train"]) > 1000
    with Image.open(next(path for path in corpus["image"] if path)) as picture:
        assert picture.width > 1


def test_no_relevant_document_is_in_two_splits(tables):
    corpus = {row["doc_id"]: row for row in tables["corpus"]["corpus"]}
    seen_documents, seen_texts, seen_pictures, chapters = {}, {}, {}, {}
    for prefix in ("", "navigational_"):
        for split, rows in tables[f"{prefix}queries"].items():
            assert set(rows["split"]) == {split}
            for row in rows:
                assert seen_texts.setdefault((prefix, row["text"]), row["query_id"]) == row["query_id"]
            qrels = tables[f"{prefix}qrels"][split]
            assert set(qrels["query_id"]) == set(rows["query_id"])
            for doc_id in qrels["doc_id"]:
                assert seen_documents.setdefault(doc_id, split) == split
                assert chapters.setdefault(corpus[doc_id]["chapter"], split) == split
                if corpus[doc_id]["image"]:
                    assert seen_pictures.setdefault(corpus[doc_id]["image"], doc_id) == doc_id
    # First sentences come from chapters whose queries train, or that have none.
    assert {chapters.get(corpus[doc_id]["chapter"], "train") for doc_id in tables["pairs"]["train"]["doc_id"]} == {
        "train"
    }


def test_excluded_passages_and_grades(tables):
    corpus = {row["doc_id"]: row for row in tables["corpus"]["corpus"]}
    for split, rows in tables["queries"].items():
        scores = defaultdict(dict)
        for row in tables["qrels"][split]:
            scores[row["query_id"]][row["doc_id"]] = row["score"]
        for query in rows:
            found = scores[query["query_id"]]
            assert set(found.values()) <= {1, 2}
            if query["kind"] == "figure":
                assert not query["excluded"]
                assert len(re.findall(r"\w+", query["text"])) >= 5
                assert 2 in found.values()
                assert {corpus[doc_id]["kind"] for doc_id in found} == {"image"}
                assert len({corpus[doc_id]["text"] for doc_id in found}) == 1
            else:
                assert query["excluded"]
                assert not set(query["excluded"]) & set(found)
                assert {corpus[doc_id]["kind"] for doc_id in [*found, *query["excluded"]]} == {"text"}
                # The query's words are the source's: without the exclusion it would find itself.
                words = set(re.findall(r"\w+", query["text"]))
                for doc_id in query["excluded"]:
                    assert words <= set(re.findall(r"\w+", corpus[doc_id]["text"]))


def test_reading_again_gives_the_same_tables(tables, manual, tmp_path):
    write_tables(read_manual(manual, GIMP), tmp_path)
    again = read_tables(tmp_path, manual)
    for name, splits in tables.items():
        for split, rows in splits.items():
            assert again[name][split].to_list() == rows.to_list(), (name, split)


TREE_PAGE = """<!DOCTYPE html><html><head><title>1.10. Decision Trees &#8212; learn 1.2 documentation</title></head>
<body><nav><a href="../index.html">Home</a></nav><div class="body" role="main"><section id="decision-trees">
<span id="tree"></span><h1><span class="section-number">1.10. </span>Decision Trees<a class="headerlink">¶</a></h1>
<p>A tree learns rules (see <a href="svm.html#svm-kernels"><span>kernel functions of support vectors</span></a>) from
the features of the data. The error is drawn in <a href="#fig-error">this figure</a> against the depth of a tree.</p>
<div class="highlight"><pre>fit(X)</pre></div><div class="math">\\[x\\]</div>
<figure id="fig-error"><img src="../_images/error.png"/><figcaption><p>Error and depth<a class="headerlink">¶</a></p>
<div class="legend">It rises where the tree learns noise.</div></figcaption></figure>
<section id="minimal-cost-pruning"><h2>Minimal cost pruning<a class="headerlink" href="#y">¶</a></h2>
<p>Branches that help little are cut.</p>
<figure><a href="../examples/plot_tree.html"><img src="../_images/plot.png"/></a></figure></section>
</section></div></body></html>"""
SVM_PAGE = """<html><head><title>Support vectors</title></head><body><div role="main"><section id="svm">
<h1>Support vectors</h1><p>They lie on the margin.</p><section id="svm-kernels"><h2>Kernel functions</h2>
<p>Products in another space.</p></section></section></div></body></html>"""
EXAMPLE_PAGE = """<html><head><title>Sine by a tree &#8212; learn 1.2 documentation</title></head><body>
<div role="main"><div class="sphx-glr-download-link-note"><p>Click here.</p></div>
<section id="sine"><h1>Sine by a tree</h1>
<p>A noisy curve is fitted by steps. More follows.</p></section></div></body></html>"""
GUIDE = Description(
    "guide", "guide-doc", "html", "BSD", pages=("modules/*.html",), passage_words=40, is_trained_on=False
)


def test_a_manual_by_sphinx(tmp_path):
    pages = {"modules/tree": TREE_PAGE, "modules/svm": SVM_PAGE, "examples/plot_tree": EXAMPLE_PAGE}
    for name, html in pages.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.html").write_text(html, encoding="utf-8")
    (tmp_path / "_images").mkdir()
    for name in ("error.png", "plot.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / "_images" / name)
    rows = read_manual(tmp_path, GUIDE)
    corpus = {row["doc_id"]: row for row in rows["corpus"]["corpus"]}
    # Neither code nor formulas; figures by their captions, or by the title of the program that draws them.
    assert {(row["kind"], row["text"], row["image"]) for row in corpus.values() if row["kind"] == "image"} == {
        ("image", "Error and depth", "_images/error.png"),
        ("image", "Sine by a tree", "_images/plot.png"),
    }
    texts = [row["text"] for row in corpus.values() if row["kind"] == "text"]
    assert len(texts) == 4
    assert not any("fit(X)" in text or "Click" in text or "[x" in text for text in texts)
    assert {row["chapter"] for row in corpus.values()} == {"Decision Trees", "Support vectors"}
    # A manual that is never trained on has no training split.
    assert not rows["queries"]["train"]
    queries = {row["text"]: row for split in rows["queries"].values() for row in split}
    relevant = defaultdict(set)
    for row in (row for split in rows["qrels"].values() for row in split):
        relevant[row["query_id"]].add(corpus[row["doc_id"]]["text"])
    found = {text: (row["kind"], relevant[row["query_id"]]) for text, row in queries.items()}
    assert found == {
        "A tree learns rules (see) from the features of the data.": ("text", {"Products in another space."}),
        "The error is drawn in against the depth of a tree.": ("figure", {"Error and depth"}),
        "It rises where the tree learns noise.": ("figure", {"Error and depth"}),
        "A noisy curve is fitted by steps.": ("figure", {"Sine by a tree"}),
        "Support vectors": ("heading", {"They lie on the margin.", "Products in another space."}),
        "Decision Trees": ("heading", {t for t in texts if t.startswith(("A tree", "Branches"))}),
        "Kernel functions": ("heading", {"Products in another space."}),
        "Minimal cost pruning": ("heading", {"Branches that help little are cut."}),
    }


HANDBOOK_PAGE = """<html><head><title>6.2. apt</title></head><body><ul class="docnav top"><li>Prev</li></ul>
<div class="section"><div class="titlepage"><h2 class="title"><a id="sect.apt"></a>6.2. Tools of apt</h2></div>
<div class="para">Lists of packages are fetched.</div><div class="sidebar"><a name="sidebar.pdiff"></a>
<div class="titlepage"><p class="title"><strong>BACK TO BASICS Incremental updates</strong></p></div>
<div class="para">Only differences are fetched.</div></div></div></body></html>"""


def test_sections_and_sidebars_of_a_handbook(tmp_path):
    (tmp_path / "apt.html").write_text(HANDBOOK_PAGE, encoding="utf-8")
    page = read_folder(tmp_path)["apt.html"]
    assert [section.path[-1] for section in page.sections] == ["apt", "BACK TO BASICS Incremental updates"]
    assert (page.anchors["sect.apt"], page.anchors["sidebar.pdiff"]) == (0, 1)
    rows = read_manual(tmp_path, DEBIAN_HANDBOOK)
    assert {row["text"] for split in rows["heading_queries"].values() for row in split} == {"Incremental updates"}
