"""Deferral of Ctrl-C."""

import signal
import threading

import pytest

from vijax.runtime.interrupt import defer_interrupt


def block(times):
    """What a deferring block completes if Ctrl-C is pressed `times` times."""
    done = []

    def interrupted():
        with defer_interrupt():
            for _ in range(times):
                signal.raise_signal(signal.SIGINT)
            done.append("the rest of the block")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return done


def test_the_first_takes_effect_at_the_end():
    assert block(1) == ["the rest of the block"]


def test_the_second_takes_effect_at_once():
    assert block(2) == []


def test_without_an_interrupt_the_handler_is_restored():
    def handler(number, frame):
        raise AssertionError

    before = signal.signal(signal.SIGINT, handler)
    try:
        with defer_interrupt():
            assert signal.getsignal(signal.SIGINT) is not handler
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_do_not_change_signal_handlers():
    seen = []

    def work():
        with defer_interrupt():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
