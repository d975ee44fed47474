"""How much processor time loading the pack adds to ComfyUI's start: ``python .ci/startup.py [RUNS] [LIMIT_MS]``.

Every run is a fresh process that imports ComfyUI's nodes (and with them torch), registers its built-in nodes and then
loads the pack as ComfyUI does; the pack's share is the process time of that last part, and the least of all runs is
printed. Exit status 1 if that is more than LIMIT_MS (150), or if training code was imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
from comfy_env import ComfyUI, find_comfyui  # noqa: E402

PROBE = """
import asyncio, json, sys, time
root, base, pack = sys.argv[1:4]
sys.argv[1:] = ["--cpu", "--base-directory", base]
sys.path.insert(0, root)
import comfy.options
comfy.options.enable_args_parsing()
import utils.extra_config  # early, as main.py does: some library brings another `utils`
import nodes
asyncio.run(nodes.init_builtin_extra_nodes())
import server  # a starting ComfyUI has it, with aiohttp and Pillow, before custom nodes load
without, before = time.process_time(), set(sys.modules)
loaded = asyncio.run(nodes.load_custom_node(pack))
spent = time.process_time() - without
new = sorted(set(sys.modules) - before)
print("RESULT " + json.dumps([bool(loaded), without, spent, new]))
"""
TRAINING = (".sparsedit_core.train", ".sparsedit_core.evaluate", ".sparsedit_core.bench", "accelerate", "diffusers",
            "tensorboard", "torch.utils.tensorboard")  # fmt: skip


def measure(comfy: ComfyUI) -> tuple[float, float, list[str]]:
    """One fresh process: seconds until ComfyUI stands, seconds of the pack, and the modules it brought."""
    with tempfile.TemporaryDirectory() as base:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        command = [comfy.python, "-c", PROBE, str(comfy.root), base, str(ROOT)]
        done = subprocess.run(command, cwd=base, env=environment, capture_output=True, text=True, timeout=600)
    result = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    loaded, without, spent, new = json.loads(result[0].removeprefix("RESULT ")) if result else (False, 0, 0, [])
    if not loaded:
        sys.exit(f"ComfyUI {comfy} did not load the pack:\n{done.stderr[-2000:]}")
    return without, spent, new


def training_code(modules: list[str]) -> list[str]:
    """Those of ``modules`` that only training needs; the pack's own have the pack's name before them."""
    return [name for name in modules for part in TRAINING if name == part or f"{name}.".startswith(f"{part}.")
            or (part.startswith(".") and f"{part}." in f"{name}.")]  # fmt: skip


def main(runs: int = 5, limit: float = 150.0) -> None:
    """Measure in every ComfyUI found."""
    found, wrong = find_comfyui(), False
    if not found:
        sys.exit("no ComfyUI found; set COMFYUI_PATH to a checkout")
    for comfy in found:
        results = [measure(comfy) for _ in range(runs)]
        start, added = min(item[0] for item in results), 1000 * min(item[1] for item in results)
        training = training_code(results[0][2])
        wrong = wrong or added > limit or bool(training)
        print(f"ComfyUI {comfy}: {start:.2f} s without the pack, which adds {added:.0f} ms", end=" ")
        print(f"(least of {runs}, limit {limit:.0f} ms); training code: {', '.join(training) or 'none'}", flush=True)
    sys.exit(int(wrong))


if __name__ == "__main__":
    main(*(kind(value) for kind, value in zip((int, float), sys.argv[1:], strict=False)))
