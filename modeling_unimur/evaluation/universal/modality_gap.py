"""The modality gap: the distance of texts and images in one space, its plot, and the calibration that closes it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .encoding import unit

# Points of each kind that are drawn; more hide one another.
_DRAWN = 1500
# Okabe and Ito's palette, and marks that tell the kinds apart without colours.
_LOOKS = {"texts": ("#0072B2", "o"), "pictures": ("#D55E00", "^"), "queries": ("#000000", "x")}


@dataclass(frozen=True)
class MeanSubtraction:
    """Subtracts each kind's mean vector and normalises again (GR-CLIP, arXiv 2507.19054). Nothing is trained.

    Args:
        queries, texts, images (`(width,)`): means of unit vectors.
    """

    queries: np.ndarray
    texts: np.ndarray
    images: np.ndarray

    @classmethod
    def fit(cls, queries: np.ndarray, documents: np.ndarray, is_image: np.ndarray) -> MeanSubtraction:
        """Means of unit vectors: of queries that are at hand beforehand (training or development), of the corpus.

        Args:
            queries (`(queries, width)`), documents (`(documents, width)`): unit vectors.
            is_image (`(documents,)`): which documents are images.
        """
        return cls(_mean(queries), _mean(documents[~is_image]), _mean(documents[is_image]))

    def queries_of(self, queries: np.ndarray) -> np.ndarray:
        """Calibrated queries `(queries, width)`."""
        return unit(queries - self.queries)

    def documents_of(self, documents: np.ndarray, is_image: np.ndarray) -> np.ndarray:
        """Calibrated documents `(documents, width)`."""
        return unit(documents - np.where(is_image[:, None], self.images, self.texts))


def _mean(vectors: np.ndarray) -> np.ndarray:
    return vectors.mean(axis=0) if len(vectors) else np.zeros(vectors.shape[1], dtype=vectors.dtype)


def modality_gap(documents: np.ndarray, is_image: np.ndarray) -> float:
    """Distance between the mean text and the mean image, both of unit vectors (Liang et al., NeurIPS 2022).

    Raises:
        ValueError: one of the kinds is absent.
    """
    if is_image.all() or not is_image.any():
        raise ValueError("The modality gap needs texts and images: the corpus has only one kind.")
    return float(np.linalg.norm(documents[is_image].mean(axis=0) - documents[~is_image].mean(axis=0)))


def draw_modality_gap(
    documents: np.ndarray,
    is_image: np.ndarray,
    queries: np.ndarray,
    output: str | os.PathLike,
    title: str | None = None,
    seed: int = 0,
) -> Path:
    """Draws texts, images and queries on the two principal axes of the documents.

    Args:
        documents (`(documents, width)`), queries (`(queries, width)`): unit vectors.
        is_image (`(documents,)`): which documents are images.
        output: a file that ends in `.png`, `.svg` or `.pdf`.
        title: above it.
        seed: of what is drawn where there is much.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: one of the kinds is absent.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("The gap is drawn by matplotlib: pip install unimur[plots]") from error
    gap = modality_gap(documents, is_image)
    rng = np.random.default_rng(seed)
    parts = {"texts": documents[~is_image], "pictures": documents[is_image], "queries": queries}
    parts = {name: rows[rng.permutation(len(rows))[:_DRAWN]] for name, rows in parts.items() if len(rows)}
    both = np.concatenate([parts["texts"], parts["pictures"]])
    centre = both.mean(axis=0)
    _, strengths, axes = np.linalg.svd(both - centre, full_matrices=False)
    explained = 100 * strengths[:2] ** 2 / max((strengths**2).sum(), 1e-12)
    figure = Figure(figsize=(5.2, 4.6), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    for name, rows in parts.items():
        x, y = ((rows - centre) @ axes[:2].T).T
        colour, marker = _LOOKS[name]
        panel.scatter(x, y, s=9, c=colour, marker=marker, alpha=0.45, linewidths=0.7, label=f"{name} ({len(rows)})")
    panel.set_xlabel(f"first axis ({explained[0]:.0f} % of the variance)", fontsize=9)
    panel.set_ylabel(f"second axis ({explained[1]:.0f} %)", fontsize=9)
    panel.tick_params(labelsize=8, length=3, color="#777777")
    panel.spines[["top", "right"]].set_visible(False)
    panel.set_title(f"{title or 'Documents and queries'}: gap {gap:.2f}", fontsize=10, loc="left")
    panel.legend(frameon=False, fontsize=8)
    output = Path(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output)
    return output


__all__ = ["MeanSubtraction", "draw_modality_gap", "modality_gap"]
