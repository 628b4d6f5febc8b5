"""Prepares the data of a TFDS builder once, and never hangs on a missing file."""

import contextlib
import fcntl
import functools
import logging
import sys
import tempfile
import types
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.data.tfds import without_tensorflow
from runner.errors import ConfigError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

log = logging.getLogger(__name__)

# How long a host may take to answer before a download is given up.
_CONNECT_TIMEOUT_SECONDS = 10


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Quiet TFDS: progress bars on a terminal only, log messages for errors only.

    And tidy: what it leaves in the temporary folder is removed after the block.
    """
    import absl.logging
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import dataset_info

    verbosity = absl.logging.get_verbosity()
    absl.logging.set_verbosity(absl.logging.ERROR)
    tfds.display_progress_bar(sys.stderr.isatty())
    with tempfile.TemporaryDirectory() as folder:
        # Each builder of data that aren't prepared makes a folder, and removes none.
        mkdtemp = functools.partial(tempfile.mkdtemp, dir=folder)
        patched: Any = dataset_info
        patched.tempfile = types.SimpleNamespace(mkdtemp=mkdtemp)
        try:
            yield
        finally:
            patched.tempfile = tempfile
            absl.logging.set_verbosity(verbosity)


def prepare(
    make_builder: "Callable[[], tfds.core.DatasetBuilder]",
    *,
    name: str,
    data_dir: Path,
    manual_dir: Path | None,
    download: bool,
) -> "tfds.core.DatasetBuilder":
    """A builder whose data is on disk, prepared first if necessary.

    Any number of processes may call this at once: one prepares, the others wait.

    Raises:
        ConfigError: files are missing, not the expected ones, or can't be downloaded;
            the folder can't be written; or preparing needs TensorFlow.
    """
    builder = make_builder()
    if builder.is_prepared():  # without the lock: the folder may be read-only
        return builder
    with _locked(data_dir, builder.info.full_name):
        # A new one, because the old one doesn't notice what another process has
        # prepared meanwhile: its splits stay empty.
        builder = make_builder()
        if not builder.is_prepared():
            log.info("Preparing %s in %s", name, builder.data_dir)
            _download_and_prepare(builder, name, manual_dir, download)
    return builder


@contextlib.contextmanager
def _locked(data_dir: Path, full_name: str) -> Iterator[None]:
    """Holds a lock that the system frees if this process dies."""
    lock_path = data_dir / f".{full_name.replace('/', '-')}.lock"
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock_file = lock_path.open("w")
    except OSError as error:
        message = f"data.data_dir={data_dir} can't be written: {error}"
        raise ConfigError(message) from error
    with lock_file:
        fcntl.flock(lock_file, fcntl.LOCK_EX)
        yield


def _download_and_prepare(
    builder: "tfds.core.DatasetBuilder",
    name: str,
    manual_dir: Path | None,
    download: bool,
) -> None:
    import tensorflow_datasets as tfds

    without_tensorflow.install_if_needed()
    manual_dir = manual_dir or Path(builder.data_dir_root) / "downloads" / "manual"
    refused = _guard_downloads(builder, download)
    # They print to stdout what has been logged already.
    builder._log_download_bytes = builder._log_download_done = lambda: None
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                manual_dir=manual_dir, try_download_gcs=False
            ),
            file_format="array_record",
        )
    except Exception as error:
        reason = _reason(error, builder, manual_dir, refused, download)
        if reason is None:
            raise
        raise ConfigError(
            f"data.name={name!r} can't be prepared in {builder.data_dir}: {reason}"
        ) from error


def _guard_downloads(
    builder: "tfds.core.DatasetBuilder", download: bool
) -> dict[str, str]:
    """Makes `builder` refuse a download at once where TFDS would retry for minutes.

    Files that are already in manual_dir or in TFDS's own cache are not downloads.

    Returns:
        An initially empty dict; it gets the name of each refused file and the reason.
    """
    import promise

    refused: dict[str, str] = {}
    url_infos = builder.url_infos or {}
    make_manager = builder._make_download_manager
    unreachable = functools.cache(_unreachable)  # asks each server once

    def make_guarded_manager(download_dir, download_config):
        manager = make_manager(download_dir, download_config)
        start_download = manager._download

        def guarded_download(resource):
            server = urllib.parse.urljoin(resource.url, "/")
            reason = unreachable(server) if download else "data.download=false"
            if reason is None:
                return start_download(resource)
            file_name = resource.url.rsplit("/", 1)[-1]
            if resource.url in url_infos:
                file_name = url_infos[resource.url].filename or file_name
            refused[file_name] = reason
            # Not raised here: TFDS asks for all files before it waits for the first.
            return promise.Promise.reject(FileNotFoundError(file_name))

        manager._download = guarded_download
        return manager

    builder._make_download_manager = make_guarded_manager
    return refused


def _unreachable(server: str) -> str | None:
    """Why `server`, a URL without its path, doesn't answer, or None if it does."""
    import requests

    if not server.startswith("http"):
        return None
    try:
        requests.head(server, timeout=_CONNECT_TIMEOUT_SECONDS).close()
    except requests.RequestException as error:
        return f"{server} doesn't answer ({type(error).__name__})"
    return None


def _reason(
    error: Exception,
    builder: "tfds.core.DatasetBuilder",
    manual_dir: Path,
    refused: dict[str, str],
    download: bool,
) -> str | None:
    """Advice to the user on `error`, or None if it isn't of their making."""
    from tensorflow_datasets.core.download.download_manager import (
        NonMatchingChecksumError,
    )

    if refused:
        way_out = "" if download else ", or set data.download=true"
        return (
            f"{', '.join(sorted(refused))} missing ({next(iter(refused.values()))}). "
            f"Put them into data.manual_dir, now {manual_dir}{way_out}."
        )
    if isinstance(error, NonMatchingChecksumError):
        return str(error)
    if without_tensorflow.is_tensorflow_missing(error):
        return without_tensorflow.NEEDS_TENSORFLOW
    instructions = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    if instructions and isinstance(error, AssertionError | OSError):
        return f"{error}\n{instructions}"
    return None
