"""The newest numbers of a run for Prometheus, over HTTP, as long as the run is up. Only the first rank serves them."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, Gauge, start_http_server

PORT = "S2V_METRICS_PORT"  # in the environment, where launchers hand it on; `--metrics-port` sets it


@dataclass(frozen=True)
class Shown:
    """A gauge with the label `run`. label: what else it has, the last word of the scalar. times: to a base unit."""

    name: str
    help: str
    label: str = ""
    times: float = 1


STEP = Shown("s2v_train_step", "Steps done")
WHEN = Shown("s2v_train_last_step_timestamp_seconds", "When the last step was done, in seconds since 1970")
SHOWN = {  # by the scalar's name, or by all before the slash of those that share a gauge
    "train/loss": Shown("s2v_train_loss", "Loss of the last step"),
    "train/grad_norm": Shown("s2v_train_grad_norm", "Norm of the gradient before it is clipped"),
    "train/rate": Shown("s2v_train_learning_rate", "Learning rate"),
    "speed/seconds": Shown("s2v_train_step_seconds", "Seconds of the last step"),
    "speed/samples_per_second": Shown("s2v_train_samples_per_second", "Clips a second, over all ranks"),
    "speed/tokens_per_second": Shown("s2v_train_tokens_per_second", "Tokens a second, over all ranks"),
    "speed/mfu": Shown("s2v_train_mfu_ratio", "Model FLOPs of what the GPUs could compute at most, 0 to 1"),
    "speed/memory_gb": Shown("s2v_train_gpu_memory_bytes", "Most memory held on the first rank's GPU", times=1e9),
    "time": Shown("s2v_train_step_part_seconds", "Seconds of the last step by part", "part"),
    "validation/audio_gap": Shown(
        "s2v_train_audio_gap", "Loss on held-out clips with another's sound, less that with their own"
    ),
    "validation/audio_gap_relative": Shown("s2v_train_audio_gap_ratio", "The same, of the loss with its own"),
    "validation": Shown("s2v_train_validation_loss", "Loss on held-out clips by what they are given", "condition"),
}


class Prometheus:
    """A `trainer.loggers.Logger`. Raises OSError where the port is taken."""

    def __init__(self, run: Path, port: int):
        self.run = run.name
        self.registry = CollectorRegistry()
        self.gauges = {shown: self.gauge(shown) for shown in (STEP, WHEN, *SHOWN.values())}
        self.server, self.thread = start_http_server(port, registry=self.registry)

    def gauge(self, shown: Shown) -> Gauge:
        labels = ("run", shown.label) if shown.label else ("run",)
        return Gauge(shown.name, shown.help, labels, registry=self.registry)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.gauges[STEP].labels(self.run).set(step)
        self.gauges[WHEN].labels(self.run).set_to_current_time()
        for name, value in values.items():
            group, _, last = name.rpartition("/")
            shown = SHOWN.get(name) or SHOWN.get(group)
            if shown:
                labels = (self.run, last) if shown.label else (self.run,)
                self.gauges[shown].labels(*labels).set(shown.times * value)

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        pass

    def video(self, step: int, name: str, path: Path) -> None:
        pass

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def asked_for(run: Path) -> list[Prometheus]:
    """None, or one on the port that the environment names."""
    port = int(os.environ.get(PORT) or 0)
    return [Prometheus(run, port)] if port else []
