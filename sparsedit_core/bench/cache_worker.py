"""Core ComfyUI's EasyCache and LazyCache on a model of this pack: runs in ComfyUI's own Python, beside nothing else.

``python cache_worker.py COMFYUI PACK FOLDER``: PACK is this pack's folder, FOLDER holds ``request.json`` and
``tensors.safetensors`` (:mod:`.cache_comfyui` writes them) and gets ``result.json`` and ``images-N.safetensors``. Lines
of progress go to standard output. The model runs in float32, the nodes have their defaults but for the threshold.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACK, NODES = "sparsedit_pack", "comfy_extras.nodes_easycache"
START, END = 0.15, 0.95  # the nodes' own defaults
HIGHEST = 3.0  # of their thresholds
PROGRESS = "progress "


def main(root: str, pack: str, folder: str) -> None:
    """Answer the request."""
    request = json.loads((Path(folder) / "request.json").read_text(encoding="utf-8"))
    start(root, Path(pack), bool(request["cpu"]))
    from safetensors.torch import load_file, save_file

    bench = Bench(request, load_file(Path(folder) / "tensors.safetensors"))
    runs: list[dict[str, Any]] = []
    for steps in request["steps"]:
        for found, images in bench.runs(steps, request["budgets"]):
            found["images"] = f"images-{len(runs)}.safetensors"
            save_file(images, Path(folder) / found["images"])
            runs.append(found)
    version = importlib.import_module("comfyui_version").__version__
    (Path(folder) / "result.json").write_text(json.dumps({"version": version, "runs": runs}), encoding="utf-8")


def start(root: str, pack: Path, cpu: bool) -> None:
    """Import ComfyUI, then the pack as ComfyUI does; the folder of this file and the pack's hide ComfyUI's nodes.py."""
    hidden = {Path(__file__).resolve().parent, pack.resolve()}
    sys.path[:] = [root, *(path for path in sys.path if Path(path or ".").resolve() not in hidden)]
    sys.argv = sys.argv[:1]
    importlib.import_module("comfy.options").enable_args_parsing(False)
    args = importlib.import_module("comfy.cli_args").args
    args.cpu, args.use_pytorch_cross_attention = cpu, True
    spec = importlib.util.spec_from_file_location(
        PACK, pack / "__init__.py", submodule_search_locations=[str(pack)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)


def part_of(name: str) -> Any:
    """A module of the pack."""
    return importlib.import_module(f"{PACK}.{name}")


class Bench:
    """One model, and the pictures to sample."""

    def __init__(self, request: dict[str, Any], tensors: dict[str, Any]) -> None:
        import torch

        if request["threads"]:
            torch.set_num_threads(request["threads"])
        recipe = part_of("nodes.recipes").FileRecipe(request["model"])
        self.model = part_of("nodes.models").build_patcher(recipe, torch.float32)
        self.tensors, self.parts = tensors, int(request["parts"])
        self.evaluated = 0
        network = self.model.model.diffusion_model
        network.final_layer.register_forward_hook(self._count)  # runs once in every evaluation that is computed

    def _count(self, *_: Any) -> None:
        self.evaluated += 1

    def runs(self, steps: int, budgets: list[float]) -> Any:
        """Dense sampling, and both caches at thresholds for the budgets: an account and the pictures of every part."""
        ways: list[tuple[dict[str, Any], Any]] = [({"method": "dense", "threshold": None, "budget": None}, self.model)]
        for method, cached in (("EasyCache", self.easy), ("LazyCache", self.lazy)):
            for threshold, budget in self.thresholds(method, cached, steps, budgets):
                about = {"method": method, "threshold": threshold, "budget": budget}
                ways.append((about, cached(threshold)))
        self.sample(self.model, "tuning", 1)  # what a first call costs
        accounts: list[dict[str, Any]] = [
            {**about, "steps": steps, "evaluated": [], "seconds": [], "processor": []} for about, _ in ways
        ]
        images: list[dict[str, Any]] = [{} for _ in ways]
        for part in range(self.parts):
            for index in range(len(ways)) if part % 2 == 0 else reversed(range(len(ways))):
                account, model = accounts[index], ways[index][1]
                tell(f"{steps} steps, {account['method']}")
                began, spent = time.perf_counter(), time.process_time()
                images[index][str(part)] = self.sample(model, str(part), steps)
                account["seconds"].append(time.perf_counter() - began)
                account["processor"].append(time.process_time() - spent)
                account["evaluated"].append(self.evaluated)
        return zip(accounts, images, strict=True)

    def thresholds(
        self, method: str, cached: Callable[[float], Any], steps: int, budgets: list[float]
    ) -> list[tuple[float, float]]:
        """Thresholds found on the pictures that are not judged, and their budgets; each share of evaluations once."""
        shares: dict[float, float] = {}

        def share(threshold: float) -> float:
            if threshold not in shares:
                tell(f"{steps} steps, {method}")
                self.sample(cached(threshold), "tuning", steps)
                shares[threshold] = self.evaluated / steps
            return shares[threshold]

        find = part_of("sparsedit_core.bench.first_block").threshold_for
        found: dict[float, tuple[float, float]] = {}
        for budget in budgets:
            threshold, reached = find(share, budget, HIGHEST, 1 / steps)
            found.setdefault(reached, (threshold, budget))
        return list(found.values())

    def easy(self, threshold: float) -> Any:
        """The model with EasyCache.

        In front of it the input is copied: EasyCache adds to it in place, and of a flow in float32 it is the very
        tensor from which the sampler computes the picture.
        """
        kinds = importlib.import_module("comfy.patcher_extension").WrappersMP

        def copied(executor: Any, x: Any, *args: Any, **keywords: Any) -> Any:
            return executor(x.clone(), *args, **keywords)

        model = self.model.clone()
        model.add_wrapper_with_key(kinds.DIFFUSION_MODEL, "a copy", copied)
        return importlib.import_module(NODES).EasyCacheNode.execute(model, threshold, START, END, False).result[0]

    def lazy(self, threshold: float) -> Any:
        """The model with LazyCache."""
        node = importlib.import_module(NODES).LazyCacheNode
        return node.execute(self.model.clone(), threshold, START, END, False).result[0]

    def sample(self, model: Any, name: str, steps: int) -> Any:
        """The pictures (B, C, H, W) of a part in Euler steps at even times, without guidance."""
        import torch

        noise, positive = self.tensors[f"{name}.noise"], self.conditioning(name)
        sigmas = torch.tensor([1.0 - step / steps for step in range(steps)] + [0.0])
        euler = importlib.import_module("comfy.samplers").sampler_object("euler")
        run = importlib.import_module("comfy.sample").sample_custom
        self.evaluated = 0
        nothing = torch.zeros_like(noise)
        return run(model, noise, 1.0, euler, sigmas, positive, positive, nothing, disable_pbar=True).contiguous()

    def conditioning(self, name: str) -> Any:
        """CONDITIONING of a part."""
        if f"{name}.labels" in self.tensors:
            return part_of("nodes.class_label").conditioning(self.tensors[f"{name}.labels"])
        captions = part_of("sparsedit_core.conditions").Captions(
            self.tensors[f"{name}.features"], self.tensors[f"{name}.mask"]
        )
        return part_of("nodes.caption").conditioning(captions)


def tell(words: str) -> None:
    """A line of progress."""
    sys.stdout.write(f"{PROGRESS}{words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
