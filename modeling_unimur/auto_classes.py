"""Makes transformers' auto classes and `pipeline` know this package's models."""

from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.pipelines import PIPELINE_REGISTRY

from .modeling_open_clip import OpenCLIPModel
from .modeling_unimur import UniMuRModel
from .modeling_univl_dr import UniVLDRModel
from .pipeline_multimodal_retrieval import MultimodalRetrievalPipeline
from .processing_unimur import UniMuRProcessor
from .processing_univl_dr import UniVLDRProcessor

PIPELINE_REGISTRY.register_pipeline(
    "multimodal-retrieval", pipeline_class=MultimodalRetrievalPipeline, pt_model=AutoModel, type="multimodal"
)
# Everything that is saved carries its code, so that it loads where this package is not installed.
for model, processor in ((UniMuRModel, UniMuRProcessor), (UniVLDRModel, UniVLDRProcessor), (OpenCLIPModel, None)):
    config = model.config_class
    AutoConfig.register(config.model_type, config, exist_ok=True)
    config.register_for_auto_class()
    AutoModel.register(config, model, exist_ok=True)
    model.register_for_auto_class("AutoModel")
    if processor is not None:
        AutoProcessor.register(config, processor, exist_ok=True)
        processor.register_for_auto_class("AutoProcessor")
