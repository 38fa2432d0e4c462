"""Universal retrieval: texts and images in one ranking, by any system, in three settings (UniVL-DR's evaluation)."""

from .encoding import Encoder, UniVLDREncoder, encode_documents, encode_queries
from .evaluate import SettingResult, evaluate_system, image_shares, returned_images
from .modality_gap import MeanSubtraction, draw_modality_gap, modality_gap
from .second_stage import SecondStage
from .systems import BM25System, DenseSystem, DivideAndConquer, Hybrid, OracleModality, UniversalSystem
from .task import SETTINGS, RetrievalTask
from .tuning import choose_calibration, choose_hybrid_weight, choose_image_weight
from .univl_dr import Space, evaluate_univl_dr, universal_result, with_bm25

__all__ = [
    "SETTINGS",
    "BM25System",
    "DenseSystem",
    "DivideAndConquer",
    "Encoder",
    "Hybrid",
    "MeanSubtraction",
    "OracleModality",
    "RetrievalTask",
    "SecondStage",
    "SettingResult",
    "Space",
    "UniVLDREncoder",
    "UniversalSystem",
    "choose_calibration",
    "choose_hybrid_weight",
    "choose_image_weight",
    "draw_modality_gap",
    "encode_documents",
    "encode_queries",
    "evaluate_system",
    "evaluate_univl_dr",
    "image_shares",
    "modality_gap",
    "returned_images",
    "universal_result",
    "with_bm25",
]
