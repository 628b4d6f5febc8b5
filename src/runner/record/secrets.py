"""Keeps passwords, tokens and API keys out of every file of a run and out of W&B."""

import contextlib
import hashlib
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from typing import Any, Literal

REDACTED = "<redacted>"

# One word of a name: api_key, api-key, apiKey and WANDB_API_KEY hold the word "key";
# monkey, keyboard, path, author and max_tokens hold none of those below.
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# As a value, such a word is no secret to look for in messages.
_ORDINARY = re.compile(r"(?i)(secret|password|passwd|passphrase|credential)s?")
# Any value under a name with such a word is a secret,
_ANY = re.compile(r".*(secret|password|passwd|passphrase|passcode|credential|pwd)s?")
# and text, but not a number, under a name with one of these.
_TEXT = re.compile(
    r"key|token|o?auth|authorization|authentication|pats?|bearer|jwt|"
    r".*(api|access|auth|private|secret)(key|token)s?"
)
# Which keys and tokens are secrets where the word alone may mean anything else.
_QUALIFIERS = {"api", "access", "private", "refresh", "signing", "encryption", "ssh"}
# Of provenance.json: a name for a compiled program; by names of modules, columns and
# metrics, digests and directions.
_NO_SECRETS = {"program_key", "module_digests", "data_digest", "directions"}

# What looks like a secret wherever it is.
_TOKEN = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)|"
    r"(?<![A-Za-z0-9])(?:"
    r"gh[pousr]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|hf_[A-Za-z0-9]{20,}|"
    r"xox[abeprs]-[\w-]{10,}|(?:AKIA|ASIA)[0-9A-Z]{12,}|AIza[\w-]{30,}|"
    r"eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*|sk-(?=[\w-]*\d)[\w-]{16,}|[sr]k_live_\w{16,}|"
    r"npm_\w{30,}|pypi-[\w-]{30,}|ya29\.[\w-]{20,}|wandb_v\d+_\w{20,}"
    r")",
    re.DOTALL,
)
# W&B's older keys look like a commit, so what is before them or around them decides.
_HEX = re.compile(r"(?<![0-9a-zA-Z])(?:local-)?[0-9a-f]{40}(?![0-9a-zA-Z])")
_WANDB_KEY = re.compile(
    rf"((?i:wandb|login|key|token)\W{{1,4}}(?:\w+\W{{1,4}})?){_HEX.pattern}"
)
_URL_PASSWORD = re.compile(r"(?<=://)(?:([^/@\s:]*):([^/\s]+)|[^/@\s:]{20,})@")

# name=value in a command line, an override or a name made from them; name: value in
# Hydra's dict syntax, in JSON, in Python and in prose; --name value.
_NAME = re.compile(
    r"""(?<![\w.\-/@])(?P<name>[\w.\-/@]+)["']?(?P<sign>[ \t]*[=:][ \t]*)"""
    r"""|(?<!\S)(?P<flag>--?[A-Za-z][\w.\-]*)[ \t]+(?=[^\s-])"""
)
_BARE = r"""[^\s,]+?(?=["')\]}]*(?:[\s,]|\Z))"""
_VALUE = re.compile(
    r"""\$\{[^}]*\}|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?i:bearer|basic)[ \t]+\S+|"""
    rf"""{_BARE}(?:,(?!\s|\Z|[\w.\-/@+~]+["']?[ \t]*[=:]){_BARE})*"""
)
# The last word of each item in a list or a mapping.
_ITEM = re.compile(r"""([^\s\[\]{},:'"]+)['"]?(?=[,\]}]|\Z)""")
# An interpolation that holds no value of its own, as a default would be.
_REFERENCE = re.compile(r"\$\{(?!oc\.env:)[\w.@\[\]]+\}|\$\{oc\.env:\w+(,(null|''))?\}")
_PLAIN = re.compile(r"[-+]?\d{1,10}(\.\d+)?|null|true|false|None|True|False")
_DONE = (REDACTED, "_redacted_")  # the latter in the name of a folder

_Kind = Literal["any", "text"] | None

# The secrets that this process has met, which a message may hold without their names,
# and what it has read from the environment.
_known: set[str] = set()
_from_environment: set[str] = set()
# The blocks of `forgotten` that run, and what was known before the first of them.
_blocks: list[None] = []
_before: list[set[str]] = []
_entering = threading.Lock()


@contextlib.contextmanager
def forgotten() -> Iterator[None]:
    """Forget the secrets met within a block, or a function, at its end.

    A command's process meets those of one launch, and ends with it; a notebook's those
    of many. Where several blocks run at once, in threads, the last one forgets.
    """
    with _entering:
        if not _blocks:
            _before.extend((set(_known), set(_from_environment)))
        _blocks.append(None)
    try:
        yield
    finally:
        with _entering:
            _blocks.pop()
            if not _blocks:
                _from_environment.intersection_update(_before.pop())
                _known.intersection_update(_before.pop())
                _scrub_text.cache_clear()


def scrub(tree: Any) -> Any:
    """`tree` with every secret replaced by "<redacted>".

    Any value under a name with a word such as secret or password is one, also in a list
    or a mapping there, and so is text under a name with a word such as key, token or
    auth. Numbers under these stay (a PRNG key, a token id), as do null and
    interpolations such as ${oc.env:API_KEY}, which hold no secret. Within text, so are
    name=value, `name: value`, `--name value`, passwords in URLs, what looks like the
    token of a well-known service, and what was a secret elsewhere: the same rule serves
    command lines, overrides, notes, and names made from them.
    """
    count = len(_known)
    scrubbed = _scrub(tree)
    # What was found on the way may be in what came before it.
    return scrubbed if len(_known) == count else _scrub(scrubbed)


def met() -> frozenset[str]:
    """The secrets that were found so far, which are then looked for in all text."""
    return frozenset(_known)


def scrub_command(argv: list[str]) -> list[str]:
    """A command line without its secrets, be they name=value or `--api-key VALUE`."""
    scrubbed = scrub(argv)
    for i, flag in enumerate(argv[:-1]):
        if flag.startswith("-") and "=" not in flag and _is_secret(flag, argv[i + 1]):
            scrubbed[i + 1] = _redacted(argv[i + 1], _kind(flag))
    return scrubbed


def named(text: str) -> str:
    """`text` for the name of a job or a folder, with a hash in place of its secrets."""
    scrubbed = scrub(text)
    if scrubbed == text:
        return text
    return f"{scrubbed}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def scrub_message(text: str) -> str:
    """A message, a traceback or a note, also without values from the environment."""
    for value in sorted(_from_environment, key=len, reverse=True):
        text = _without(text, value)
    return scrub(text)


def error_line(error: BaseException, most: int | None = 200) -> str:
    """`error` on one line, without secrets; its message is cut to `most` characters."""
    text = scrub_message(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text[:most]}".removesuffix(": ")


def remember_environment(name: str, value: str) -> None:
    """Let no message show `value`, which the configuration reads from the variable."""
    is_path = value.startswith(("/", "~", ".")) or os.path.exists(value)
    if len(value) >= 6 and not _PLAIN.fullmatch(value):
        if not is_path or _kind(name):
            _from_environment.add(value)


class ScrubbedFormatter(logging.Formatter):
    """Formats the records of a log without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return scrub_message(super().format(record))


def _scrub(tree: Any, name: str = "") -> Any:
    """`tree`, which stands under `name`, without secrets."""
    kind = _kind(name)
    if isinstance(tree, Mapping):
        if name == "wandb":
            tree = {key: _without_hex(item) for key, item in tree.items()}
        # All below `secret` is; in a mapping named `key` its own keys decide.
        below = "secret" if kind == "any" else None
        found = {}
        for key, item in tree.items():
            shown = _TOKEN.sub(REDACTED, key) if isinstance(key, str) else key
            is_plain = key in _NO_SECRETS and not name
            found[shown] = item if is_plain else _scrub(item, below or str(key))
        return found
    if isinstance(tree, list | tuple):
        return [_scrub(item, name) for item in tree]
    if _is_secret(name, tree):
        return _redacted(tree, kind)
    return _scrub_text(tree, len(_known)) if isinstance(tree, str) else tree


def _without_hex(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_without_hex(item) for item in value]
    return _HEX.sub(REDACTED, value) if isinstance(value, str) else value


def _redacted(value: Any, kind: _Kind) -> str:
    """REDACTED, for `value`, which is remembered if it can't be an ordinary word."""
    if isinstance(value, str) and value not in _DONE:
        if value[:1] in ("[", "{") or _ORDINARY.fullmatch(value):
            return REDACTED  # of several, each one is remembered
        odd = any(c.isdigit() for c in value) and len(value) >= 8
        if not _PLAIN.fullmatch(value) and (odd or kind == "any") and len(value) >= 6:
            _known.add(value)
    return REDACTED


@cache
def _kind(name: str, is_prose: bool = False) -> _Kind:
    """Whether any value under `name` is a secret, or only text, or none."""
    *parents, last = name.replace("/", ".").split(".")
    words = _words(last)
    around = set() if is_prose else {word for part in parents for word in _words(part)}
    if any(_ANY.fullmatch(word) for word in words | around):
        return "any"
    if words & _QUALIFIERS and words & {"key", "keys", "token", "tokens"}:
        return "text"
    text = {word for word in words if _TEXT.fullmatch(word)}
    return "text" if text - ({"key"} if is_prose else set()) else None


def _words(name: str) -> set[str]:
    return {word.lower() for word in _WORD.findall(name)}


def _is_secret(name: str, value: Any) -> bool:
    if isinstance(value, str):
        return _kind(name) is not None and not _is_reference(value)
    return _kind(name) == "any" and value is not None and not isinstance(value, bool)


def _is_reference(text: str) -> bool:
    """Whether `text` is an interpolation without a value of its own, or lists some."""
    items = text[1:-1].split(",") if text[:1] == "[" else [text]
    return all(_REFERENCE.fullmatch(item.strip()) for item in items)


@lru_cache(4096)  # most texts of a sweep's jobs are the same
def _scrub_text(text: str, known: int) -> str:
    """`text` without secrets; `known`: how many are, since more may be hidden then."""
    text = _TOKEN.sub(REDACTED, text)
    if "://" in text:
        text = _URL_PASSWORD.sub(_without_password, text)
    text = _WANDB_KEY.sub(rf"\1{REDACTED}", text)
    for value in sorted(_known, key=len, reverse=True):
        text = _without(text, value)
    return _scrub_assignments(text)


def _without_password(url: re.Match[str]) -> str:
    user, password = url.groups()
    if user is None:
        return f"{REDACTED}@"
    return url[0] if _REFERENCE.fullmatch(password) else f"{user}:{REDACTED}@"


def _without(text: str, value: str) -> str:
    if value not in text:
        return text
    return re.sub(rf"(?<![A-Za-z0-9]){re.escape(value)}(?![A-Za-z0-9])", REDACTED, text)


def _scrub_assignments(text: str) -> str:
    parts, end = [], 0
    is_code = "\n" in text  # or a traceback, in which `key=key` is no secret
    for match in _NAME.finditer(text):
        if match.start() < end:  # within a value
            continue
        # `name: value`, too, but not within the braces of a mapping.
        is_prose = is_code or (":" in (match["sign"] or "") and "{" not in text)
        name = match["flag"] or match["name"]
        kind = _kind(name, is_prose)
        if kind is None or name.lower() == "key":  # "of the form key=value"
            continue
        if name.endswith("Error"):  # a KeyError and its message
            continue
        value = _value(text, match.end(), kind)
        if not value or value.startswith(_DONE) or _is_reference(value):
            continue
        if _PLAIN.fullmatch(value) and (kind == "text" or not value[-1].isdigit()):
            continue
        if not is_prose:
            for item in {value, *_ITEM.findall(value)}:
                _redacted(item.strip("'\""), kind)
        parts += [text[end : match.end()], REDACTED]
        end = match.end() + len(value)
    return "".join([*parts, text[end:]])


def _value(text: str, start: int, kind: _Kind) -> str:
    """The value that begins at `start`, with what brackets around it hold."""
    if text[start : start + 1] == "{" and kind == "text":
        return ""  # a mapping, whose own keys decide
    if text[start : start + 1] in ("[", "{"):
        depth = 0
        for index in range(start, len(text)):
            depth += (text[index] in "[{") - (text[index] in "]}")
            if not depth:
                return text[start : index + 1]
        return text[start:]
    found = _VALUE.match(text, start)
    return found[0] if found else ""
