"""Ray Data gives what one process gives."""

import pytest

from modeling_unimur.encoding.build import build_index
from tests.encoding.corpora import assert_same_content, content, options

ray = pytest.importorskip("ray")


@pytest.mark.slow
def test_two_workers_equal_one_process(pair, encoder, corpus, tmp_path):
    for part in pair:
        part.save_pretrained(tmp_path / "model")
    (corpus / "bad.png").write_text("x")
    build_index(corpus, encoder, tmp_path / "one", options())
    settings = options(engine="ray", ray_workers=2, chunk_size=3, device="cpu")
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        report = build_index(corpus, tmp_path / "model", tmp_path / "two", settings)
        assert (report.items, report.encoded, report.skipped) == (12, 12, 1)
        assert build_index(corpus, tmp_path / "model", tmp_path / "two", settings).unchanged == 13
    finally:
        ray.shutdown()
    found, expected = content(tmp_path / "two"), content(tmp_path / "one")
    assert_same_content(found, expected, 1e-6)
    files = [(tmp_path / name / "v000001" / "image.jsonl").read_text() for name in ("one", "two")]
    assert files[0] == files[1]  # the same order of ids
