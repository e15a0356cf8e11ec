"""From a name or folder to a model with its preprocessing or tokenizer."""

from .hugging_face import check_size_against_weights, configuration, hf_preprocess, preprocessor_config
from .load import MINIS, SEVERAL_INPUTS, DinoLinear, LoadedModel
from .timm_models import timm_configuration, timm_preprocess
