"""Completion of groups, their choices and keys in bash and zsh."""

from collections.abc import Iterable

from hydra._internal.core_plugins.bash_completion import BashCompletion

# Hydra's own knows `python FILE` and console scripts, but not `python -m runner`.
_SCRIPT = r"""
_runner_completion() {
    local line="${COMP_LINE:0:$COMP_POINT}" rest first found=""
    local -a ask
    COMPREPLY=()
    rest="${line#* }"
    ask=("${line%% *}")
    if [[ "${ask##*/}" == python* ]]; then
        if [[ "$rest" != "-m runner "* ]]; then return; fi
        rest="${rest#-m runner }"
        ask=("${line%% *}" -m runner)
    fi
    first="${rest%% *}"
    if [[ "$rest" == "$first" ]]; then
        found="COMMANDS"
    elif [[ " COMMANDS " == *" $first "* ]]; then
        return
    fi
    found="$found $(COMP_LINE="runner $rest" "${ask[@]}" -sc query=bash 2> /dev/null)"
    COMPREPLY=($(compgen -W "$found" -- "${rest##* }"))
}
COMP_WORDBREAKS="${COMP_WORDBREAKS//=}"
complete -o nospace -o default -F _runner_completion runner python python3
"""
_UNINSTALL = "complete -r runner python python3; unset -f _runner_completion"


def complete_commands(commands: Iterable[str]) -> None:
    """Let `-sc install=bash` print what completes both forms of the command line.

    zsh runs the same script, by its own bashcompinit.

    Args:
      commands: what else the first argument may be.
    """
    script = _SCRIPT.replace("COMMANDS", " ".join(commands))
    BashCompletion.install = lambda self: print(script)
    BashCompletion.uninstall = lambda self: print(_UNINSTALL)
