"""The folder in which Orbax writes a checkpoint: it gets a checksum of each file."""

import asyncio
import contextlib
from pathlib import Path

from orbax.checkpoint import path

from runner.record import checksums


class CheckedFolder(path.atomicity.AtomicRenameTemporaryPath):
    """Writes the checksums before the folder gets the name of a whole checkpoint.

    Orbax finalizes it in the background, in the first of all processes, when all files
    of all processes are there.
    """

    async def finalize(self) -> None:
        """List all files, rename the folder, and list what Orbax adds as it does so.

        Raises:
          OSError: the disk is full or the folder can't be written.
        """
        before, after = Path(self.get()), Path(self.get_final())
        if not after.name.isdecimal():  # a part of a checkpoint, which lists them all
            return await super().finalize()
        names = [name for name in checksums.files_below(before) if "/" in name]
        sums = await asyncio.to_thread(checksums.write, before, names)
        await super().finalize()
        notes = [name for name in checksums.files_below(after) if "/" not in name]
        with contextlib.suppress(OSError):  # nothing reads its notes
            checksums.write(after, [*names, *notes], sums)
