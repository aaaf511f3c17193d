"""Checkpoints on Hugging Face, by an address that pins a revision."""

from __future__ import annotations

import re
from pathlib import Path

from astropt_db.errors import AstroptDbError, ConfigurationError, MissingExtraError

PREFIX = "hf://"


class DownloadError(AstroptDbError):
    """A file could not be fetched from Hugging Face, nor found in the local cache."""


def parse(address: str) -> tuple[str, str, str]:
    """Split ``hf://owner/repo@revision/path`` into repository, revision and path.

    Revisions are commits, tags or branches without a slash. Raises ConfigurationError.
    """
    match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)@([\w.-]+)/([\w./-]+)", address)
    if match is None:
        raise ConfigurationError(
            f"{address!r} is not of the form hf://owner/repo@revision/path/to/file. The revision "
            "is needed so that the same name always means the same weights; use a commit."
        )
    return match.group(1), match.group(2), match.group(3)


def fetch(address: str) -> Path:
    """Download a file, or find it in the Hugging Face cache, and return its path.

    The cache and its environment variables (``HF_HOME``, ``HF_HUB_OFFLINE``) are those of
    ``huggingface_hub``. For one of our own encoders (``.safetensors``) its ``.json`` comes along.

    Raises
    ------
    ConfigurationError
        If the address is malformed.
    MissingExtraError
        If ``huggingface_hub`` is not installed.
    DownloadError
        If the file can neither be downloaded nor found.
    """
    repository, revision, name = parse(address)
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "hf", "Loading from Hugging Face") from error
    card = [str(Path(name).with_suffix(".json"))] if name.endswith(".safetensors") else []
    try:
        paths = [hf_hub_download(repository, wanted, revision=revision) for wanted in [name, *card]]
    except Exception as error:  # the library's own, its HTTP client's and the system's errors
        raise DownloadError(
            f"{address}: {error} Check the address and the network, or fetch the file once "
            "where there is one: HF_HUB_OFFLINE=1 then uses the cache."
        ) from error
    return Path(paths[0])
