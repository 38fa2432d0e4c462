"""Files of WebQA's size are read in memory that does not grow with them; the peak is that of a fresh process."""

import json
import subprocess
import sys

import pytest

from benchmarks.harness import ROOT

_READ = """
import json, sys
from pathlib import Path
from benchmarks.harness import peak_mib, reset_peak
from modeling_unimur.data.webqa.load import _records
from modeling_unimur.data.webqa.tables import write_tables
source, output = Path(sys.argv[1]), Path(sys.argv[2])
output.mkdir()
reset_peak()
before = peak_mib()
report = write_tables(_records(source, "released", "raw", 0), output)
same = report["ids of equal contents"]
print(json.dumps({"mib": peak_mib() - before, "texts": report["text documents"], "same": same}))
"""


def write_lines(folder, count):
    """`data.zip`'s files with so many texts, every tenth a copy; no two lines exist in memory at a time."""
    folder.mkdir()
    words = "a fact that somebody wrote down about the town, its river and the old bridge over it, in some length"
    with (folder / "all_docs.json").open("w", encoding="utf-8") as file:
        for number in range(count):
            told = number if number % 10 else number // 2 * 2 - 5
            row = {
                "snippet_id": f"d5bdf8ae0dba11ecb1e8_{number}",
                "fact": f"{words} {told}",
                "title": "Town",
            }
            file.write(json.dumps(row) + "\n")
    with (folder / "all_imgs.json").open("w", encoding="utf-8") as file:
        for number in range(count // 10):
            file.write(json.dumps({"image_id": 30_000_000 + number, "caption": f"view {number}", "title": ""}) + "\n")
    with (folder / "train.json").open("w", encoding="utf-8") as file:
        for number in range(count // 20):
            texts = [f"d5bdf8ae0dba11ecb1e8_{number}"]
            row = {
                "qid": f"q{number}", "Q": f"question {number}?", "A": [], "txt_posFacts": texts, "img_posFacts": [],
                "txt_negFacts": [f"d5bdf8ae0dba11ecb1e8_{number + n}" for n in range(1, 17)],
                "img_negFacts": [str(30_000_000 + number)],
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")
    for name in ("dev", "test"):
        row = {"qid": name, "Q": "?", "A": [], "txt_posFacts": ["d5bdf8ae0dba11ecb1e8_3"], "img_posFacts": []}
        row |= {"txt_negFacts": [], "img_negFacts": []}
        (folder / f"{name}.json").write_text(json.dumps(row) + "\n", encoding="utf-8")


def read(folder, count):
    write_lines(folder / "webqa", count)
    command = [sys.executable, "-c", _READ, str(folder / "webqa"), str(folder / "tables")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["texts"] + found["same"] == count
    assert found["same"] > 0.08 * count
    return found["mib"]


def test_twenty_thousand_lines(tmp_path):
    assert read(tmp_path, 20_000) < 150


@pytest.mark.slow
def test_a_million_lines(tmp_path):
    # 220 MB of texts and their questions; hashes and marks take some dozen bytes a line, a batch of rows the rest.
    assert read(tmp_path, 1_000_000) < 400
