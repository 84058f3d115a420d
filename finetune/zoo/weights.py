"""Weight files: found, verified by sha256 and read without ever running what is in them.

Only safetensors and pickles restricted to tensors (``weights_only=True``) are read.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.errors import ZooError, must
from finetune.resources import weights_dir
from finetune.runtime import cache_dir
from finetune.zoo.card import ModelCard
from finetune.zoo.libraries import import_timm, import_torchvision_models

OFFLINE_REMEDY = (
    "Without a network use --backbone embedded, a weight file (--backbone PATH.safetensors), "
    "or download once where there is one."
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def find_weights(card: ModelCard) -> Path:
    """The card's weight file on this disk, downloaded if need be, its sha256 checked. Raises ZooError."""
    if card.source == "bundled":
        path = _existing(weights_dir() / str(card.weights), card)
    elif card.source == "local":
        path = _existing(Path(str(card.weights)).expanduser(), card)
    elif card.source == "torchvision":
        path = _from_url(_torchvision_url(card), card)
    elif card.source == "hub":
        path = from_hub(*_repository(str(card.weights or card.name)), files=_hub_files(None))
    else:
        path = _timm_file(card)
    verify(path, card.sha256, card.name)
    return path


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name, half precision widened to fp32. Raises ZooError for anything that is not that."""
    try:
        if path.suffix == ".safetensors" or _is_safetensors(path):
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ZooError(
            f"{path} holds Python code beside weights and was not loaded. Convert it to safetensors first."
        ) from None
    except Exception as error:  # safetensors and torch raise many kinds for a damaged file
        raise ZooError(f"{path} cannot be read as a weight file: {type(error).__name__}: {error}") from error
    for key in ("state_dict_ema", "state_dict", "model_ema", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ZooError(must(str(path), "a file of named tensors", type(state).__name__))
    return {
        name.removeprefix("module."): value.float() if value.is_floating_point() else value
        for name, value in state.items()
    }


def metadata(path: Path) -> dict[str, str]:
    """The text header of a safetensors file; empty for other files. Raises ZooError where it is damaged."""
    if path.suffix != ".safetensors":
        return {}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ZooError(f"{path} cannot be read as safetensors: {error}") from None


def sha256_of(path: Path) -> str:
    """Of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return (
            hashlib.file_digest(file, "sha256").hexdigest()
            if hasattr(hashlib, "file_digest")
            else _digest(file)
        )


def _digest(file: Any) -> str:
    digest = hashlib.sha256()  # Python 3.10 has no file_digest
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def verify(path: Path, expected: str | None, name: str) -> None:
    """Compare with the card's sha256, or the one that the hub's cache names its blob by. Raises ZooError."""
    if expected is None:
        blob = path.resolve().name
        expected = blob if _SHA256.fullmatch(blob) else None
    if expected is not None and (found := sha256_of(path)) != expected:
        raise ZooError(
            must(f"{path}, the weights of {name},", f"a file with sha256 {expected}", found)
            + " It is damaged or was replaced: delete it and try again."
        )


def from_hub(repository: str, revision: str | None, files: list[str]) -> Path:
    """The first of ``files`` that a Hugging Face repository has, through its local cache. Raises ZooError."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    for file in files:
        try:
            with _one_line_of_retries():
                return Path(hf_hub_download(repository, file, revision=revision))
        except GatedRepoError:
            raise ZooError(
                f"{repository} asks for its licence to be accepted: do so on its hub page, "
                "then run `hf auth login`."
            ) from None
        except RepositoryNotFoundError:
            raise ZooError(
                f"The hub has no repository {repository!r} that you may read. Check the name."
            ) from None
        except RevisionNotFoundError:
            raise ZooError(
                must(f"revision of {repository}", "one that the hub has", repr(revision))
            ) from None
        except HFValidationError:
            raise ZooError(must("hub name", "hf-hub:OWNER/NAME", repr(repository))) from None
        except LocalEntryNotFoundError as error:
            raise ZooError(f"{repository} cannot be downloaded: {_cause(error)}. {OFFLINE_REMEDY}") from error
        except EntryNotFoundError:
            continue
        except (OSError, RuntimeError) as error:
            raise ZooError(f"{repository} cannot be downloaded: {_cause(error)}. {OFFLINE_REMEDY}") from error
    raise ZooError(f"{repository} has none of the files {', '.join(files)}.")


@contextlib.contextmanager
def _one_line_of_retries() -> Iterator[None]:
    """The hub's client tells of every attempt in two lines; here of the first in one."""
    logger, retries = logging.getLogger("huggingface_hub.utils._http"), _Retries()
    logger.addFilter(retries)
    try:
        yield
    finally:
        logger.removeFilter(retries)


class _Retries(logging.Filter):
    said = False

    def filter(self, record: logging.LogRecord) -> bool:
        if not any(words in record.getMessage() for words in ("thrown while requesting", "Retrying in")):
            return True
        record.msg, record.args = "The hub does not answer; trying again for up to half a minute.", ()
        first, self.said = not self.said, True
        return first


def parse_hub_name(name: str) -> tuple[str, str | None]:
    """``hf-hub:OWNER/NAME@REVISION`` -> (OWNER/NAME, REVISION or None). Raises ZooError."""
    return _repository(name)


def _repository(name: str) -> tuple[str, str | None]:
    repository, _, revision = name.removeprefix("hf-hub:").removeprefix("hf_hub:").partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ZooError(must("hub name", "hf-hub:OWNER/NAME or hf-hub:OWNER/NAME@REVISION", repr(name)))
    return repository, revision or None


def _hub_files(named: str | None) -> list[str]:
    """Safe formats first."""
    files = ["model.safetensors", "pytorch_model.bin"]
    if named:
        stem = named.rpartition(".")[0]
        files = list(dict.fromkeys([f"{stem}.safetensors", named, *files]))
    return files


def _timm_file(card: ModelCard) -> Path:
    timm = import_timm()

    name = f"{card.arch}.{card.weights}" if card.weights else card.arch
    try:
        config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError:
        config = None
    if config is None or not (config.hf_hub_id or config.url):
        raise ZooError(
            f"timm has no pretrained weights for {name}. Use a name with weights, or pretrained=False."
        )
    if config.hf_hub_id:
        repository = config.hf_hub_id if "/" in config.hf_hub_id else f"timm/{config.hf_hub_id}"
        if repository == "timm/":
            repository = f"timm/{config.architecture}.{config.tag}"
        return from_hub(*_repository(repository), files=_hub_files(config.hf_hub_filename))
    return _from_url(str(config.url), card)


def _torchvision_url(card: ModelCard) -> str:
    models = import_torchvision_models()

    choices = models.get_model_weights(card.arch)
    if card.weights and card.weights not in choices.__members__:
        raise ZooError(
            must(f"weights of {card.arch}", f"one of {', '.join(choices.__members__)}", card.weights)
        )
    chosen: Any = choices[card.weights] if card.weights else getattr(choices, "DEFAULT", None)
    if chosen is None:
        raise ZooError(f"torchvision has no pretrained weights for {card.arch}. Use pretrained=False.")
    return str(chosen.url)


def _from_url(url: str, card: ModelCard) -> Path:
    """Download once into the cache; the eight digits in the file's name are the start of its sha256."""
    from urllib.error import URLError

    base = url.rpartition("/")[2]
    target = cache_dir() / "weights" / base
    if target.is_file():
        return target
    prefix = re.search(r"-([0-9a-f]{8,})\.", base)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(
            url, str(target), hash_prefix=prefix[1] if prefix else None, progress=False
        )
    except (URLError, OSError) as error:
        raise ZooError(
            f"The weights of {card.name} cannot be downloaded: {_cause(error)}. {OFFLINE_REMEDY}"
        ) from error
    except RuntimeError as error:  # a wrong hash
        raise ZooError(f"The weights of {card.name} arrived damaged: {error}. Try again.") from error
    return target


def _existing(path: Path, card: ModelCard) -> Path:
    if not path.is_file():
        raise ZooError(must(f"weights of {card.name}", "an existing file", str(path)))
    return path


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:9] == b"{"


def _cause(error: BaseException) -> str:
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    return f"{type(root).__name__}: {str(root).strip().splitlines()[0] if str(root).strip() else 'no answer'}"
