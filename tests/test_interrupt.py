"""Ctrl-C that is put off."""

import signal
import threading

import pytest

from vijax._interrupt import put_off


def test_the_first_takes_effect_at_the_end():
    done = []
    with pytest.raises(KeyboardInterrupt), put_off():
        signal.raise_signal(signal.SIGINT)
        done.append("the rest of the block")
    assert done
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_second_takes_effect_at_once():
    done = []
    with pytest.raises(KeyboardInterrupt), put_off():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append("the rest of the block")
    assert not done


def test_without_one_nothing_changes():
    def handler(number, frame):
        raise AssertionError

    before = signal.signal(signal.SIGINT, handler)
    try:
        with put_off():
            assert signal.getsignal(signal.SIGINT) is not handler
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_leave_signals_alone():
    seen = []

    def work():
        with put_off():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
