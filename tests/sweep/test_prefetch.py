import threading
import time

import pytest

from runner.sweep.prefetch import ahead


def test_in_order_and_in_another_thread():
    threads = []

    def items():
        for i in range(50):
            threads.append(threading.current_thread())
            yield i

    assert list(ahead(items(), 4)) == list(range(50))
    assert threading.current_thread() not in threads


def test_not_further_than_asked():
    made = []

    def items():
        for i in range(100):
            made.append(i)
            yield i

    source = ahead(items(), 3)
    assert next(source) == 0
    time.sleep(0.2)
    assert len(made) <= 6
    source.close()
    time.sleep(0.3)
    assert len(made) <= 6


def test_errors_come_after_what_was_made():
    def items():
        yield 1
        raise ValueError("two")

    source = ahead(items(), 8)
    assert next(source) == 1
    with pytest.raises(ValueError, match="two"):
        next(source)
