"""DiffSparse: a plan of which tokens each sub-layer recomputes at each step; the others reuse their cached output."""
