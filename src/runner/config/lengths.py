"""The lengths of a schedule's parts, which have to fit into its whole."""

from itertools import pairwise

from omegaconf import DictConfig, OmegaConf

from runner.errors import ConfigError

# Where the parts of a cycle end, as fractions of it.
_ONE_CYCLE = {
    "optax.cosine_onecycle_schedule": ("pct_start",),
    "optax.linear_onecycle_schedule": ("pct_start", "pct_final"),
}


def check_lengths(cfg: DictConfig, key: str) -> None:
    """Refuse parts that are longer than the whole, where optax would not.

    Args:
      cfg: the whole configuration, with the length of the run.
      key: of a schedule in it. What isn't a number is left to the check of types.

    Raises:
      ConfigError: names the key, the value and the rule.
    """
    name, warmup, decay, cycle = (
        OmegaConf.select(cfg, f"{key}.{argument}")
        for argument in ("_target_", "warmup_steps", "decay_steps", "transition_steps")
    )
    steps = cfg.train.steps
    if type(warmup) is int:
        if warmup < 0:
            raise ConfigError(f"{key}.warmup_steps={warmup} must not be negative")
        if warmup > steps:
            raise ConfigError(
                f"{key}.warmup_steps={warmup} is longer than the run, which has "
                f"train.steps={steps}"
            )
        is_within = name == "optax.warmup_cosine_decay_schedule"
        if is_within and type(decay) is int and warmup >= decay:
            raise ConfigError(
                f"{key}.warmup_steps={warmup} must be less than {key}.decay_steps="
                f"{decay}, which includes it"
            )
    ends = _ONE_CYCLE.get(str(name), ())
    fractions = [OmegaConf.select(cfg, f"{key}.{end}") for end in ends]
    are_numbers = all(type(f) in (int, float) for f in fractions)
    if type(cycle) is int and fractions and are_numbers:
        # Of two that round to the same step, optax forgets the first.
        at = [int(fraction * cycle) for fraction in fractions]
        if any(a >= b for a, b in pairwise([*at, cycle])):
            given = " and ".join(
                f"{key}.{end}={f}" for end, f in zip(ends, fractions, strict=True)
            )
            raise ConfigError(
                f"{given} must leave a step for each part that follows: of {key}."
                f"transition_steps={cycle} they are {' and '.join(map(str, at))}"
            )
