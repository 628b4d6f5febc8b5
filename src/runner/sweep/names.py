"""Names of a sweep's jobs and of their folders."""

import hashlib
import re
from collections.abc import Sequence

LONGEST = 120  # a file name has at most 255 bytes, and people read it


def varying(jobs: Sequence[Sequence[str]]) -> list[str]:
    """The keys of the overrides in which `jobs` differ, in the order of the first."""
    given = [{k: v for k, _, v in (o.partition("=") for o in job)} for job in jobs]
    keys = dict.fromkeys(key for job in given for key in job)
    return [key for key in keys if len({job.get(key) for job in given}) > 1]


def job_name(overrides: Sequence[str], keys: Sequence[str]) -> str:
    """What tells a job from the others: its overrides of `keys`, or all it has."""
    told = [o for o in overrides if not keys or o.partition("=")[0] in keys]
    return ",".join(override.lstrip("+~") for override in told)


def folder_name(name: str) -> str:
    """`name` as a folder's. What is replaced in it or cut off is told by a hash."""
    safe = re.sub(r"[^\w.=,+-]", "_", name).strip(".")[:LONGEST] or "default"
    if safe == name or not name:
        return safe
    return f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
