"""Makes the four Fashion-MNIST files that TFDS expects from those in Debian.

    apt-get install dataset-fashion-mnist
    python scripts/fashion_mnist.py --out fashion
    python -m runner data=fashion_mnist data.manual_dir=fashion data.download=false

Debian ships the upstream files with name and time taken out of the gzip header, so
TFDS's checksums fail. Putting both back gives the upstream bytes, which is verified.
"""

import argparse
import hashlib
import os
import struct
import sys
from pathlib import Path

# Seconds since 1970: when upstream compressed the files (2017-08-31, 10:50 UTC).
MTIMES = {"train": 1504176606, "t10k": 1504176627}
# gzip's magic number, deflate, no flags: what `gzip --no-name` writes.
NAMELESS_HEADER = b"\x1f\x8b\x08\x00"
FLAG_NAME = b"\x08"


def upstream_bytes(name: str, packed: bytes) -> bytes:
    """`packed` with the upstream name and time in its gzip header (RFC 1952)."""
    if not packed.startswith(NAMELESS_HEADER):
        raise ValueError("not a gzip file without a name in its header")
    mtime = struct.pack("<I", MTIMES[name.split("-")[0]])
    original_name = name.removesuffix(".gz").encode() + b"\0"
    return packed[:3] + FLAG_NAME + mtime + packed[8:10] + original_name + packed[10:]


def convert(source: Path, out: Path) -> None:
    """Writes all files of TFDS's fashion_mnist to `out`, or raises and names one."""
    import tensorflow_datasets as tfds

    out.mkdir(parents=True, exist_ok=True)
    for info in tfds.builder_cls("fashion_mnist").url_infos.values():
        data = upstream_bytes(info.filename, (source / info.filename).read_bytes())
        if hashlib.sha256(data).hexdigest() != info.checksum:
            raise ValueError(f"{info.filename} is not the published file")
        partial = out / f".{info.filename}.{os.getpid()}"
        partial.write_bytes(data)
        partial.replace(out / info.filename)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--source", type=Path, default=Path("/usr/share/datasets/fashion-mnist")
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        convert(args.source, args.out)
    except FileNotFoundError as error:
        sys.exit(f"{error.filename} is missing: apt-get install dataset-fashion-mnist")
    except (OSError, ValueError) as error:
        sys.exit(f"{args.source}: {error}")
    print(f"Ready: data=fashion_mnist data.manual_dir={args.out}")


if __name__ == "__main__":
    main()
