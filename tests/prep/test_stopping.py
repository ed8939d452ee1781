import contextlib
import os
import signal

import pytest

from mmfm_prep.stopping import check_stop, clean_end_on_sigterm


def test_a_kill_that_a_callback_dropped_is_raised_again() -> None:
    check_stop()
    with clean_end_on_sigterm():
        with contextlib.suppress(KeyboardInterrupt):  # as a callback from C does
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            check_stop()
    check_stop()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
