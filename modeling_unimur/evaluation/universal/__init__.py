"""Universal retrieval: any system ranks texts and images together, in three settings (UniVL-DR's evaluation)."""

from .encoding import DualEncoder, encode_documents, encode_queries
from .evaluate import choose_hybrid_weight, choose_image_weight, ranked, setting_figures
from .systems import HYBRID, DivideAndConquer, Hybrid, OracleModality, SecondStage, bm25_system, dense_system
from .task import SETTINGS, RetrievalTask
from .univl_dr import Space, choose_weights, universal_result, with_bm25

__all__ = [
    "HYBRID", "SETTINGS", "DivideAndConquer", "DualEncoder", "Hybrid", "OracleModality", "RetrievalTask",
    "SecondStage", "Space", "bm25_system", "choose_hybrid_weight", "choose_image_weight", "choose_weights",
    "dense_system", "encode_documents", "encode_queries", "ranked", "setting_figures", "universal_result", "with_bm25",
]  # fmt: skip
