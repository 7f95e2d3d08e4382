import os
import signal

import pytest

from bert_tfx.pipeline.commands.run import _Interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_interrupt_for_as_long_as_a_run_goes_on(number):
    before = signal.getsignal(number)
    interrupt = _Interrupt()
    interrupt.check()
    with pytest.raises(KeyboardInterrupt), interrupt.listening():
        os.kill(os.getpid(), number)
        signal.pause()
    assert signal.getsignal(number) is before


def test_an_interrupt_that_was_swallowed_is_raised_again():
    interrupt = _Interrupt()
    with interrupt.listening():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
        except KeyboardInterrupt:
            pass
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
