"""What is minimised: the loss of a micro-batch, alone or towards a dense teacher.

``flow``     rectified flow: the squared error of the velocity (diffusion/flow.py)
``dit``      DiT's: the squared error of the noise, plus the variational bound where the variance is learned
``min_snr``  SparseDiT's variant: the squared error weighted by min(snr, 5) / snr, the bound as it is
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..config import BackboneConfig
from ..diffusion import Diffusion, flow_losses, training_losses
from ..diffusion.gaussian import ModelFn
from ..diffusion.losses import mean_flat, min_snr_weight
from ..diffusion.model_time import Prediction
from .batches import MicroBatch
from .options import ObjectiveName

PREDICTIONS: dict[str, Prediction] = {"flow": "flow", "dit": "eps", "min_snr": "eps"}
"""What a model must predict to be trained with an objective."""


def objective_name(wanted: ObjectiveName, prediction: Prediction, config: BackboneConfig) -> str:
    """The objective itself for "auto"; ``ValueError`` where it does not fit what the model predicts."""
    name = wanted if wanted != "auto" else ("flow" if prediction == "flow" else "dit")
    if PREDICTIONS[name] != prediction:
        fitting = [other for other, predicted in PREDICTIONS.items() if predicted == prediction]
        raise ValueError(
            f"objective {name} trains models that predict {PREDICTIONS[name]!r}, this one predicts {prediction!r}; use "
            f"{' or '.join(fitting)}"
        )
    if prediction == "flow" and config.learn_sigma:
        raise ValueError("the model predicts a flow and has channels of a learned variance, which flows do not have")
    return name


@dataclass(frozen=True)
class Objective:
    """One of the objectives; ``distill`` is the weight of a teacher's prediction as the target, if there is one.

    The teacher's part takes the place of the squared error only; the variational bound stays that of the pictures.
    """

    name: str
    distill: float = 1.0
    diffusion: Diffusion = field(default_factory=Diffusion)

    def losses(self, model: ModelFn, batch: MicroBatch, teacher: ModelFn | None = None) -> dict[str, Tensor]:
        """Losses (B,): "loss" and its parts "mse", "vb" (learned variance) and "taught" (with a teacher)."""
        seen: list[Tensor] = []

        def predict(x: Tensor, t: Tensor) -> Tensor:
            predicted = model(x, t).to(x.dtype)
            if teacher is not None:
                # of a learned variance only the first half, the noise, is the teacher's to teach
                pairs = (y[:, : x.shape[1]] for y in (predicted, teacher(x, t).to(x.dtype)))
                seen.append(mean_flat((next(pairs) - next(pairs)) ** 2))
            return predicted

        if self.name == "flow":
            found = flow_losses(predict, batch.images, batch.times, batch.noise)
        else:
            found = training_losses(
                self.diffusion,
                predict,
                batch.images,
                batch.times,
                batch.noise,
                weighting="min_snr" if self.name == "min_snr" else "none",
            )
        if not seen:
            return found
        (taught,) = seen
        if self.name == "min_snr":
            taught = taught * min_snr_weight(self.diffusion, batch.times, taught)
        loss = torch.lerp(found["mse"], taught, self.distill)
        return {**found, "loss": loss + found["vb"] if "vb" in found else loss, "taught": taught}
