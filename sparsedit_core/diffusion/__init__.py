"""Diffusion for stand-alone use: noise schedules, samplers, guidance and training losses."""

from .betas import linear_betas
from .flow import flow_noise, flow_times, sample_flow
from .gaussian import Diffusion, ModelFn
from .guidance import combine_guidance, with_conditions, with_guidance, with_labels
from .losses import flow_losses, training_losses
from .model_time import diffusion_time
from .noise import draw_noise, seeded_generators
from .respace import respaced_timesteps
from .sampling import SamplerCallback, sample_ddim, sample_ddpm

__all__ = [
    "Diffusion",
    "ModelFn",
    "SamplerCallback",
    "combine_guidance",
    "diffusion_time",
    "draw_noise",
    "flow_losses",
    "flow_noise",
    "flow_times",
    "linear_betas",
    "respaced_timesteps",
    "sample_ddim",
    "sample_ddpm",
    "sample_flow",
    "seeded_generators",
    "training_losses",
    "with_conditions",
    "with_guidance",
    "with_labels",
]
