"""Looking into a model: how its attention spreads, what a block's density is worth, which layout that suggests."""
