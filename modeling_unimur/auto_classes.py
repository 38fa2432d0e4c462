"""Makes transformers' auto classes and `pipeline` know this package's models."""

from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .configuration_open_clip import OpenCLIPConfig
from .configuration_unimur import UniMuRConfig
from .configuration_univl_dr import UniVLDRConfig
from .modeling_open_clip import OpenCLIPModel
from .modeling_unimur import UniMuRModel
from .modeling_univl_dr import UniVLDRModel
from .pipeline_multimodal_retrieval import MultimodalRetrievalPipeline
from .processing_unimur import UniMuRProcessor
from .processing_univl_dr import UniVLDRProcessor

AutoConfig.register("unimur", UniMuRConfig, exist_ok=True)
AutoConfig.register("univl_dr", UniVLDRConfig, exist_ok=True)
AutoConfig.register("open_clip", OpenCLIPConfig, exist_ok=True)
AutoModel.register(UniMuRConfig, UniMuRModel, exist_ok=True)
AutoModel.register(UniVLDRConfig, UniVLDRModel, exist_ok=True)
AutoModel.register(OpenCLIPConfig, OpenCLIPModel, exist_ok=True)
AutoProcessor.register(UniMuRConfig, UniMuRProcessor, exist_ok=True)
AutoProcessor.register(UniVLDRConfig, UniVLDRProcessor, exist_ok=True)
PIPELINE_REGISTRY.register_pipeline(
    "multimodal-retrieval", pipeline_class=MultimodalRetrievalPipeline, pt_model=AutoModel, type="multimodal"
)

# Everything that is saved carries its code, so that it loads where this package is not installed.
UniMuRConfig.register_for_auto_class()
UniVLDRConfig.register_for_auto_class()
OpenCLIPConfig.register_for_auto_class()
UniMuRModel.register_for_auto_class("AutoModel")
UniVLDRModel.register_for_auto_class("AutoModel")
OpenCLIPModel.register_for_auto_class("AutoModel")
UniMuRProcessor.register_for_auto_class("AutoProcessor")
UniVLDRProcessor.register_for_auto_class("AutoProcessor")
