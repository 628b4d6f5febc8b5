"""Keeps passwords and API keys out of the run's JSON files and out of W&B.

Hydra's own record of the command line, and tracebacks, aren't changed.
"""

import re
from collections.abc import Mapping
from typing import Any

REDACTED = "<redacted>"

# One word of a name: api_key, api-key, apiKey and WANDB_API_KEY hold the word "key";
# monkey, keyboard and max_tokens don't.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_ALWAYS = {"secret", "password"}
_TEXT_ONLY = {"key", "apikey", "token"}
_NEVER = {"program_key"}  # runner's own name for a compiled program
# Sections of digests, by the names of modules and columns, such as "key" and "token".
_OF_DIGESTS = {"module_digests", "data_digest"}
# name=value inside a command line, an override or a W&B name made from them; and, in
# Hydra's dict syntax, name: value.
_ASSIGNMENT = re.compile(
    r"""(?P<name>[\w.\-/@]+)(?P<sign>=|:\s*)(?P<value>\$\{[^}]*\}|'[^']*'|"[^"]*"|[^\s,{}\[\]]+)"""
)
_URL_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]+@")


def scrub(tree: Any) -> Any:
    """`tree` with every secret replaced by "<redacted>".

    Any value under a name with the word secret or password is one, and so is text under
    a name with the word key or token. Numbers under key and token stay (a PRNG key, a
    token id), as do null and interpolations such as ${oc.env:API_KEY}, which hold no
    secret. Text of the form name=value, and passwords in URLs, are scrubbed too, so the
    same rule serves command lines, overrides and names made from them.
    """
    if isinstance(tree, Mapping):
        return {
            key: item
            if key in _OF_DIGESTS
            else REDACTED
            if _is_secret(str(key), item)
            else scrub(item)
            for key, item in tree.items()
        }
    if isinstance(tree, list | tuple):
        return [scrub(item) for item in tree]
    return _scrub_text(tree) if isinstance(tree, str) else tree


def scrub_command(argv: list[str]) -> list[str]:
    """A command line without its secrets, be they name=value or `--api-key VALUE`."""
    scrubbed = scrub(argv)
    for i, flag in enumerate(argv[:-1]):
        if flag.startswith("-") and "=" not in flag and _is_secret(flag, argv[i + 1]):
            scrubbed[i + 1] = REDACTED
    return scrubbed


def _is_secret(name: str, value: Any) -> bool:
    # A mapping named `key` is a config section: its own keys decide.
    if value is None or isinstance(value, bool | Mapping):
        return False
    if isinstance(value, str) and value.startswith("${"):
        return False
    last = name.replace("/", ".").split(".")[-1]
    if last in _NEVER:
        return False
    words = {word.lower() for word in _WORD.findall(last)}
    return bool(words & _ALWAYS or (isinstance(value, str) and words & _TEXT_ONLY))


def _scrub_text(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        name, sign, value = match["name"], match["sign"], match["value"]
        number = re.fullmatch(r"[-+]?\d{1,10}(\.\d+)?|null|true|false", value)
        if _is_secret(name, 0 if number else value):
            return f"{name}{sign}{REDACTED}"
        return match[0]

    if "=" in text:
        text = _ASSIGNMENT.sub(replace, text)
    return _URL_PASSWORD.sub(rf"\1:{REDACTED}@", text)
