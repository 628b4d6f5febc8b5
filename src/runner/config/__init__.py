"""The configuration: all code that knows how Hydra and OmegaConf compose it."""
