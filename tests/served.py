"""A small watched model behind the server on a free port, for tests of the server and its page."""

import threading
import time
from contextlib import contextmanager

import pandas as pd

from emolens.monitor import Monitor
from emolens.serve.api import LOOPBACK
from emolens.serve.local import bound, server_of

LAYER = 2
SAID = "Ben had no job and no money and the landlord came at noon."
LOW = -9.0  # a threshold that everything reaches
THRESHOLDS = pd.DataFrame(
    [("colon", "desperate", LAYER, LOW, 0.0, 1.0), ("reply", "angry", LAYER, LOW, 0.0, 1.0)],
    columns=["moment", "emotion", "layer", "threshold", "mean", "sd"],
)


class Slow(Monitor):
    """Each pass takes a while, as those of larger models do."""

    def readouts(self, residual, layer):
        time.sleep(0.1)
        return super().readouts(residual, layer)


@contextmanager
def running(engine, access=LOOPBACK):
    """The server on a free port of this machine, in a thread."""
    with bound("127.0.0.1", 0) as listening:
        server = server_of(engine, access)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        until(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


def until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)
