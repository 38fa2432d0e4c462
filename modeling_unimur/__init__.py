"""UniMuR: one embedding of a dialogue that retrieves the text and the image of its reply.

Importing a name from here registers the models with transformers' auto classes. The import is put off until then,
since the command line must answer before torch is there.
"""

import importlib
import sys

__version__ = "0.1.0"

_WHERE = {
    "MultimodalRetrievalPipeline": "pipeline_multimodal_retrieval",
    "OpenCLIPConfig": "configuration_open_clip",
    "OpenCLIPModel": "modeling_open_clip",
    "RetrievalIndex": "memory_index",
    "UniMuRConfig": "configuration_unimur",
    "UniMuRModel": "modeling_unimur",
    "UniMuROutput": "modeling_unimur",
    "UniMuRPreTrainedModel": "modeling_unimur",
    "UniMuRProcessor": "processing_unimur",
    "UniVLDRConfig": "configuration_univl_dr",
    "UniVLDRModel": "modeling_univl_dr",
    "UniVLDROutput": "modeling_univl_dr",
    "UniVLDRProcessor": "processing_univl_dr",
    "load_image": "image_loading",
}
__all__ = list(_WHERE)


def register() -> None:
    """Makes transformers' auto classes and `pipeline` know the models of this package."""
    importlib.import_module(".auto_classes", __name__)


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    register()
    return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)


if "transformers" in sys.modules:
    register()
