import os
import signal

import pytest

from bert_tfx.pipeline.commands.run import _Interrupt
from bert_tfx.serving import int8_products


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


def test_int8_is_refused_before_the_first_node_where_it_is_not_computed(
    bert_tfx, glue_dir, vocab_file, tmp_path, monkeypatch
):
    monkeypatch.setattr(int8_products, "_are_computed", lambda: False)
    place = ("--data", glue_dir, "--vocab", vocab_file, "--output", tmp_path / "output")
    done = bert_tfx("run", "--task", "sst2", *place, "--compress", '[{"store": "int8"}]').check(2)
    assert "TensorFlow cannot multiply in 8 bits here, as oneDNN is off: set TF_" in done.stderr
    assert "TsvExampleGen" not in done.stdout
