"""Makes the next items while earlier ones are used."""

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T], most: int) -> Iterator[T]:
    """Yield `items`, which a thread of its own makes up to `most` ahead.

    An exception from `items` is raised here, after the items before it.
    """
    made: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(most)
    stop = threading.Event()

    def put(item: T | None, end: BaseException | None) -> None:
        while not stop.is_set():
            try:
                return made.put((item, end), timeout=0.1)
            except queue.Full:
                pass

    def work() -> None:
        try:
            for item in items:
                put(item, None)
                if stop.is_set():
                    return
            put(None, StopIteration())
        except BaseException as error:
            put(None, error)

    # A daemon: Ctrl-C must not wait for a download.
    threading.Thread(target=work, name="runner-ahead", daemon=True).start()
    try:
        while True:
            item, end = made.get()
            if isinstance(end, StopIteration):
                return
            if end is not None:
                raise end
            yield item  # pyright: ignore[reportReturnType]
    finally:
        stop.set()
