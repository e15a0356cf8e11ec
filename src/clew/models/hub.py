"""What is fetched from the Hugging Face Hub is announced, and what cannot be fetched is explained."""

from __future__ import annotations

import logging
import os

from ..errors import LoadError
from .model_files import remote_code_error

logger = logging.getLogger("clew")


def announce(repository: str, *filenames: str) -> None:
    """Say what will be downloaded and where to, unless it is there already."""
    from huggingface_hub import constants, try_to_load_from_cache

    cached = (try_to_load_from_cache(repository, filename) for filename in filenames)
    if constants.HF_HUB_OFFLINE or any(isinstance(path, str) for path in cached):
        return
    logger.warning("downloading %s from the Hugging Face Hub to %s", repository, constants.HF_HUB_CACHE)


def download_error(name: str, error: Exception) -> LoadError:
    """The error for a model that could not be loaded."""
    said = str(error).strip().splitlines()
    if "trust_remote_code" in str(error):
        return remote_code_error(name, said[0])
    got = f"{type(error).__name__}: {' '.join(line.strip() for line in said[:2])}"
    if os.path.isdir(name.rpartition(":")[2]):
        return LoadError(
            f"{name} could not be loaded",
            expected="a complete folder, as `save_pretrained` writes it, with a configuration that fits its weights",
            got=got,
            todo="correct what is named, or write or fetch the folder again",
        )
    return LoadError(
        f"{name} could not be loaded",
        expected="a model of the Hub (reachable, or in the cache) or a complete folder",
        got=got,
        todo="check the name; offline, fetch it elsewhere with `hf download` and pass the folder",
    )
