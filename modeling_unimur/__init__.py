"""UniMuR: one embedding of a dialogue that retrieves the text and the picture of its reply."""

from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_open_clip import OpenCLIPConfig
from .configuration_unimur import UniMuRConfig
from .image_loading import load_image
from .modeling_open_clip import OpenCLIPModel
from .modeling_unimur import UniMuRModel, UniMuRPreTrainedModel
from .outputs_unimur import UniMuROutput
from .pipeline_multimodal_retrieval import MultimodalRetrievalPipeline
from .processing_unimur import UniMuRProcessor
from .retrieval_index import RetrievalIndex

__version__ = "0.1.0"

AutoConfig.register("unimur", UniMuRConfig, exist_ok=True)
AutoConfig.register("open_clip", OpenCLIPConfig, exist_ok=True)
AutoModel.register(UniMuRConfig, UniMuRModel, exist_ok=True)
AutoModel.register(OpenCLIPConfig, OpenCLIPModel, exist_ok=True)
AutoProcessor.register(UniMuRConfig, UniMuRProcessor, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline(
    "multimodal-retrieval", pipeline_class=MultimodalRetrievalPipeline, pt_model=AutoModel, type="multimodal"
)

# Everything that is saved carries its code, so that it loads where this package is not installed.
UniMuRConfig.register_for_auto_class()
OpenCLIPConfig.register_for_auto_class()
UniMuRModel.register_for_auto_class("AutoModel")
OpenCLIPModel.register_for_auto_class("AutoModel")
UniMuRProcessor.register_for_auto_class("AutoProcessor")

__all__ = [
    "MultimodalRetrievalPipeline",
    "OpenCLIPConfig",
    "OpenCLIPModel",
    "RetrievalIndex",
    "UniMuRConfig",
    "UniMuRModel",
    "UniMuROutput",
    "UniMuRPreTrainedModel",
    "UniMuRProcessor",
    "load_image",
]
