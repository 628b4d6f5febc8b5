"""What Hydra and OmegaConf refuse, in one message that suggests the nearest name."""

from hydra.errors import ConfigCompositionException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from runner.config import conf_dir
from runner.errors import did_you_mean


def explain(error: Exception) -> str:
    """The message of `error` and of what caused it, and a name that may be meant."""
    cause = error.__cause__
    message = str(error)
    if isinstance(cause, OmegaConfBaseException):
        message += f"\n{cause}"
    return message + _suggestion(error)


def _suggestion(error: Exception) -> str:
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        name = error.missing_cfg_file.rsplit("/", 1)[-1]
        return did_you_mean(name, error.options or [])
    for refused in (error, error.__cause__):
        if isinstance(refused, OmegaConfBaseException):
            parent = refused.parent_node
            if isinstance(parent, DictConfig) and isinstance(refused.key, str):
                return did_you_mean(refused.key, map(str, parent))
    if isinstance(error, ConfigCompositionException):
        quoted = str(error).split("'")
        groups = [path.name for path in conf_dir().iterdir() if path.is_dir()]
        if len(quoted) > 1 and quoted[1] not in groups:
            return did_you_mean(quoted[1], groups)
    return ""
