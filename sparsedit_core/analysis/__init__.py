"""Looking into a model: how its attention spreads, what a block's density is worth, which layout that suggests."""

from .analysis import Analysis, analyze
from .moments import Moment, noised, trajectory
from .suggest import Suggestion

__all__ = ["Analysis", "Moment", "Suggestion", "analyze", "noised", "trajectory"]
