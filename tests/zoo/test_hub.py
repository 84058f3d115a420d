"""Weights from the Hugging Face hub: from a server of our own, from its cache, and without a network."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from finetune.errors import ZooError
from finetune.zoo.create import create_backbone
from finetune.zoo.weights import _one_line_of_retries


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Weights of timm's test_resnet with five classes, as plain safetensors."""
    import timm

    file = tmp_path / "small.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=5).state_dict(), file)
    return file


class Hub(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as a download needs."""

    files: dict[str, bytes]

    def __init__(self, files: dict[str, bytes], *args: Any, **kwargs: Any) -> None:
        self.files = files
        super().__init__(*args, **kwargs)

    def _answer(self, body: bool) -> None:
        known = self.path.startswith("/someone/tiny")
        data = self.files.get(self.path.rpartition("/resolve/main/")[2]) if known else None
        self.send_response(200 if data is not None else 404)
        if data is None:
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
            self.send_header("Content-Length", "0")
        else:
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", "1" * 40)
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body and data is not None:
            self.wfile.write(data)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


ASK = """
import sys
from finetune.errors import ZooError
from finetune.zoo.create import create_backbone
from finetune.zoo.weights import _one_line_of_retries
for name in sys.argv[1:]:
    try:
        backbone = create_backbone(name)
        print("loaded", backbone.num_classes, backbone.preprocessing.size, backbone.card.licence)
    except ZooError as error:
        print("ZooError", error)
"""


def test_the_hub(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {
        "architecture": "test_resnet",
        "num_classes": 5,
        "pretrained_cfg": {"input_size": [3, 64, 64], "license": "mit"},
    }
    files = {"config.json": json.dumps(config).encode(), "model.safetensors": small.read_bytes()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, files))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # In a process of its own, for the hub's client reads its environment once, when it is imported.
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
    settings = {
        "HF_HOME": str(tmp_path / "home"),
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    try:
        run = subprocess.run(
            [sys.executable, "-c", ASK, "hf-hub:someone/tiny", "hf-hub:nobody/nothing"],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
            env={**inherited, **settings},
        )
    finally:
        server.shutdown()
        server.server_close()
    loaded, refused = run.stdout.strip().splitlines()
    assert loaded == "loaded 5 64 mit"
    assert "has no repository 'nobody/nothing'" in refused

    # From its cache, without a network; and the blob's name is the sha256 that it must have.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    assert create_backbone("hf-hub:someone/tiny").num_classes == 5
    blob = next((tmp_path / "home").rglob("model.safetensors")).resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(ZooError, match="It is damaged or was replaced"):
        create_backbone("hf-hub:someone/tiny")


@pytest.mark.parametrize("name", ["hf-hub:someone/tiny", "resnet18"])
def test_no_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ZooError, match="Without a network use --backbone embedded"):
        create_backbone(name)


def test_no_network_for_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.error import URLError

    def refuse(*_: Any, **__: Any) -> None:
        raise URLError("refused")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(ZooError, match=r"alexnet cannot be downloaded: URLError.* --backbone embedded"):
        create_backbone("alexnet")


def test_of_the_clients_retries_one_line_is_told(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("huggingface_hub.utils._http")
    caplog.set_level("WARNING", logger.name)
    logger.addHandler(caplog.handler)  # the client's root logger does not propagate
    try:
        with _one_line_of_retries():
            for number in range(1, 4):
                logger.warning(f"'refused' thrown while requesting HEAD http://hub/file {number}")
                logger.warning(f"Retrying in {number}s [Retry {number}/5].")
            logger.warning("Something else.")
        logger.warning("Retrying in 1s [Retry 1/5].")
    finally:
        logger.removeHandler(caplog.handler)
    told = list(dict.fromkeys(record.getMessage() for record in caplog.records))
    assert told == [
        "The hub does not answer; trying again for up to half a minute.",
        "Something else.",
        "Retrying in 1s [Retry 1/5].",
    ]
