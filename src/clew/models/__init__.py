"""Declarations of model families, checks of their heads and files, and the errors for unknown models."""

from .architectures import (
    Architecture,
    BoundArchitecture,
    Readout,
    architecture_inside,
    find_architecture,
    how_to_declare,
    is_declared,
    register,
)
from .checkpoints import Weights, fit_names, load_weights, read_weights, unsafe_pickle_error
from .forward_arguments import (
    CACHES,
    NON_INPUT_ARGUMENTS,
    ForwardSignature,
    cache_length,
    copy_cache,
    for_call,
    forward_signature,
    is_cache,
    moved,
    supports_logits_to_keep,
)
from .hub import announce, download_error
from .loaded_model import DinoLinear, LoadedModel
from .model_files import (
    StoredSize,
    check_configuration,
    dry_build,
    limit_size,
    no_foreign_code,
    remote_code_error,
    stored_size,
)
from .module_paths import block_and_head_names
from .objects import as_loaded
from .pair import SIDES, Pair, Side, find_pair, pairs, register_pair, tower
