"""Data, training, fine-tuning and judging of the small bundled models."""
