"""Universal retrieval: texts and images in one ranking, by any system, in three settings (UniVL-DR's evaluation)."""

from .encoding import DualEncoder, encode_documents, encode_queries
from .evaluate import ranked, setting_figures
from .modality_gap import MeanSubtraction, draw_modality_gap, modality_gap
from .second_stage import SecondStage
from .systems import DivideAndConquer, Hybrid, OracleModality, bm25_system, dense_system
from .task import SETTINGS, RetrievalTask
from .tuning import choose_calibration, choose_hybrid_weight, choose_image_weight
from .univl_dr import Space, universal_result, with_bm25

__all__ = [
    "SETTINGS",
    "DivideAndConquer",
    "DualEncoder",
    "Hybrid",
    "MeanSubtraction",
    "OracleModality",
    "RetrievalTask",
    "SecondStage",
    "Space",
    "bm25_system",
    "choose_calibration",
    "choose_hybrid_weight",
    "choose_image_weight",
    "dense_system",
    "draw_modality_gap",
    "encode_documents",
    "encode_queries",
    "modality_gap",
    "ranked",
    "setting_figures",
    "universal_result",
    "with_bm25",
]
