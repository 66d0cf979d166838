"""A filter for the tests of clusters: it takes its time, and writes down where it ran."""

import os
import time
from pathlib import Path

from filters.base import ClipView, Filter, Measurement, score


class Where(Filter):
    """A line in `log` for each clip that is begun: on which node, where it finds the job's own files, which clip."""

    log: str
    hurry: str  # a file: while there is none, each clip takes `seconds`
    seconds: float = 20.0

    class Scores(Measurement):
        fine: float | None = score(unit="0 or 1", better="higher")

    def measure(self, clip: ClipView) -> Measurement:
        with open(self.log, "a") as log:
            log.write(f"{os.environ['S2V_TEST_NODE']} {Path('nodes.py').resolve()} {clip.clip.clip_id}\n")
        end = time.time() + self.seconds
        while time.time() < end and not os.path.exists(self.hurry):
            time.sleep(0.05)
        return self.Scores(fine=1.0)
