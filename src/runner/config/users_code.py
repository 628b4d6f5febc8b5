"""Errors of a user's own functions, told with the frames of their code alone."""

import sysconfig
import traceback
from pathlib import Path

_RUNNER = str(Path(__file__).resolve().parents[1])
_OTHERS = tuple(
    str(Path(sysconfig.get_path(name)).resolve())
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
)


def raised(error: BaseException) -> str | None:
    """What a user's function raised, and where; None if it wasn't one that did.

    It is theirs if the last frame that is no library's is of their code, wherever it
    was called from; or if it is where runner calls a part of theirs, which has no code
    of its own that raised it: see `InPart`.
    """
    if _is_of_another_trace(error):
        return (
            f"{type(error).__name__}: {str(error).splitlines()[0]}\n"
            "A value that one trace of your code has computed is used in another. What "
            "your model, task, metrics, transforms and probes compute they may only "
            "return, and not keep in a global, an attribute or a cache. "
            "JAX_CHECK_TRACER_LEAKS=1 says who does"
        )
    summary = traceback.extract_tb(error.__traceback__)
    ours = [frame.filename.startswith(_RUNNER) for frame in summary]
    if True not in ours:
        return None
    called = list(summary)[ours.index(True) :]
    known = [frame for frame in called if not _is_of_library(frame.filename)]
    theirs = [f for f in known if not f.filename.startswith(_RUNNER)]
    if not theirs or known[-1] is not theirs[-1]:
        part, where = getattr(error, "runner_part", (None, None))
        if known[-1].filename != where:
            return None
        last = called[-1]
        place = f"raised in {last.filename}, line {last.lineno} "
        return (
            f"{part}: {type(error).__name__}: {error}\n"
            f"{place if last is not known[-1] else ''}"
            "(HYDRA_FULL_ERROR=1 shows all frames)"
        )
    last = theirs[-1]
    lines = "".join(traceback.format_list(theirs)).rstrip()
    return (
        f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})\n"
        f"raised by your code (HYDRA_FULL_ERROR=1 shows all frames):\n{lines}"
    )


def _is_of_another_trace(error: BaseException) -> bool:
    """Whether it is JAX's, by its name: JAX needn't be imported."""
    is_found = type(error).__name__ == "UnexpectedTracerError"
    # It isn't found where a compiled function takes the value for another argument.
    return is_found or (
        isinstance(error, TypeError)
        and str(error).startswith("Computation compiled for ")
    )


def _is_of_library(filename: str) -> bool:
    return filename.startswith(("<", *_OTHERS)) and not filename.startswith(_RUNNER)
