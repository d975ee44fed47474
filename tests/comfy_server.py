"""A ComfyUI server with the pack in its custom_nodes, in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from comfy_env import PACK, ComfyUI

BOOT_SECONDS, RUN_SECONDS = 300, 300
PARTS = ("__init__.py", "nodes", "sparsedit_core", "workflows", "web", "locales", "pyproject.toml")


def base_folder(base: Path) -> Path:
    """Make ComfyUI's --base-directory with a copy of the pack; returns the copy."""
    pack = base / "custom_nodes" / "sparsedit"
    pack.mkdir(parents=True)
    for part in PARTS:
        if (PACK / part).is_dir():
            shutil.copytree(PACK / part, pack / part, ignore=shutil.ignore_patterns("__pycache__"))
        elif (PACK / part).is_file():
            shutil.copy(PACK / part, pack / part)
    for name in ("diffusion_models", "text_encoders", "vae"):
        (base / "models" / name).mkdir(parents=True)
    return pack


class Server:
    """``with Server(comfy, base) as server``: started in ``base`` (see :func:`base_folder`) on a free port."""

    def __init__(self, comfy: ComfyUI, base: Path) -> None:
        self.comfy, self.base = comfy, base
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = base / "server.log"

    def __enter__(self) -> Server:
        command = [
            self.comfy.python, "main.py", "--cpu", "--port", str(self.port), "--disable-auto-launch",
            "--base-directory", str(self.base), "--database-url", "sqlite:///:memory:", "--disable-api-nodes",
        ]  # fmt: skip
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                command, cwd=self.comfy.root, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        self._wait(lambda: self.get("/system_stats"), BOOT_SECONDS)
        return self

    def __exit__(self, *_error: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def get(self, path: str) -> Any:
        """JSON of a GET."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return json.load(answer)

    def queue(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """Run an API-format workflow to its end; its history entry. A refusal raises with the server's words."""
        body = json.dumps({"prompt": prompt, "client_id": uuid.uuid4().hex}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/prompt", body)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                number = json.load(answer)["prompt_id"]
        except urllib.error.HTTPError as error:
            raise ValueError(error.read().decode()) from None
        history: dict[str, Any] = self._wait(lambda: self.get(f"/history/{number}")[number], RUN_SECONDS)
        return history

    def _wait(self, ask: Any, seconds: float) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            try:
                return ask()
            except (OSError, KeyError):
                time.sleep(0.3)
        raise TimeoutError(f"no answer from ComfyUI; the end of its log:\n{self.log.read_text('utf-8')[-3000:]}")
