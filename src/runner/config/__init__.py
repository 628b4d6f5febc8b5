"""The configuration: all that knows how Hydra and OmegaConf compose it."""
