import os
import signal

import pytest

from bert_tfx.pipeline.commands.run import _terminable


def test_sigterm_is_an_interrupt_for_as_long_as_a_run_goes_on():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), _terminable():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert signal.getsignal(signal.SIGTERM) is before
