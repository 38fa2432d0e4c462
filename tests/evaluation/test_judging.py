"""The judge of MM-Relevance: unit vectors of the CLIP itself."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import CLIPModel

from modeling_unimur import UniVLDRProcessor
from modeling_unimur.evaluation.tasks.mmdialog import ClipJudge


def test_vectors_are_the_clip_s(clip_folder, pictures, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    judge, model = ClipJudge(str(clip_folder)), CLIPModel.from_pretrained(clip_folder).eval()
    processor = UniVLDRProcessor.from_pretrained(clip_folder)
    with torch.no_grad():
        texts = model.get_text_features(**processor.process_texts(["a cat", "the red balloon"]))
        image = model.get_image_features(**processor.process_images([pictures[1]]))
    texts, image = (part if isinstance(part, torch.Tensor) else part.pooler_output for part in (texts, image))
    np.testing.assert_allclose(
        judge.vectors("text", ["a cat", "the red balloon"]), F.normalize(texts, dim=-1), atol=1e-5
    )
    found = judge.vectors("image", [str(tmp_path / "bad.png"), pictures[1]])
    assert np.isnan(found[0]).all()
    np.testing.assert_allclose(found[1], F.normalize(image, dim=-1)[0], atol=1e-5)


def test_what_is_no_clip_is_refused(language_folder, tmp_path):
    for source in (language_folder, tmp_path / "nothing"):
        with pytest.raises(ValueError, match="judge"):
            ClipJudge(str(source))
