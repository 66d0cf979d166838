"""Weights and optimiser states between the engine's memory and a run's checkpoints."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor

from model.errors import CheckpointError
from model.network import S2VModel
from model.tensor_files import some
from trainer import checkpoints
from trainer.checkpoints import MASTER, WEIGHT, Parts, Saved
from trainer.optimiser import AVERAGE
from trainer.ranks import Ranks
from trainer.run_files import name_of
from trainer.stages import Stage
from trainer.zero import own_part, span

MOMENTS = ("exp_avg", "exp_avg_sq")


class State:
    """What a checkpoint holds, where it lies in an engine."""

    def __init__(self, network: S2VModel, engine: Any, stage: Stage):
        self.network, self.engine = network, engine
        self.kinds = (*MOMENTS, AVERAGE) if stage.optimiser.ema is not None else MOMENTS
        self.parameters = dict(network.named_parameters())
        self.trained = [name for name, parameter in self.parameters.items() if parameter.requires_grad]

    @property
    def updates(self) -> int:
        """Those that were applied, on every rank alike. The optimiser has no states before the first one."""
        master = self.engine.optimizer.fp32_partitioned_groups_flat[0]
        return int(self.engine.optimizer.optimizer.state.get(master, {}).get("step", 0))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Views of this rank's numbers, without padding."""
        kinds = (MASTER, *self.kinds) if self.updates else (MASTER,)
        for name, parameter in self.parameters.items():
            first, last = span(parameter)
            if not parameter.requires_grad:
                yield f"{WEIGHT}/{name}", own_part(parameter)[: last - first]
                continue
            for kind in kinds:
                yield f"{kind}/{name}", self.flat(parameter, kind)[: last - first]

    def flat(self, parameter: Any, kind: str) -> Tensor:
        """This rank's piece of a trained parameter's master or optimiser state, with padding."""
        key = None if kind == MASTER else kind
        piece, _ = self.engine.optimizer._get_fp32_opt_state_partition(parameter, False, optim_state_key=key)
        return piece

    def start_states(self, updates: int) -> None:
        """The optimiser's states as after so many updates; their content is still to be filled in."""
        optimiser = self.engine.optimizer
        for master in optimiser.fp32_partitioned_groups_flat:
            moments = {kind: torch.zeros_like(master) for kind in self.kinds}
            optimiser.optimizer.state[master] = {"step": torch.tensor(float(updates)), **moments}

    @torch.no_grad()
    def restore(self, parts: Parts) -> None:
        """Exactly the masters, moments and averages that were saved."""
        if set(parts.saved.trained) != set(self.trained):
            changed = sorted(set(parts.saved.trained) ^ set(self.trained))
            raise CheckpointError(
                f"{parts.folder} trained other parameters ({some(changed)}): start a new run from it with --init."
            )
        kinds = (MASTER, *self.kinds) if parts.saved.updates else (MASTER,)
        if parts.saved.updates:
            self.start_states(parts.saved.updates)
        for name in self.trained:
            first, last = span(self.parameters[name])
            for kind in kinds:
                begins = kind == AVERAGE and AVERAGE not in parts.kinds(name)
                stored = MASTER if begins else kind
                self.flat(self.parameters[name], kind)[: last - first].copy_(parts.read(stored, name, first, last))

    def save(self, run: Path, step: int, stage: Stage, parts: str, ranks: Ranks, *, data: str) -> str:
        """A collective. Writes RUN/step-N; returns a complaint if it could not, and then nothing of it stays.
        parts: the folder of VAE and encoders. data: a digest of the clips."""
        final = run / name_of(step)
        partial = run / f".{final.name}.partial"
        need = sum(tensor.nbytes for _, tensor in self.tensors())
        total = int(ranks.total(torch.tensor(float(need), dtype=torch.float64)))
        if ranks.leads:
            checkpoints.sweep(run)  # the others write when they have heard, below, that there is room
        complaint = checkpoints.room(run, total) if ranks.leads else ""
        if not ranks.any(bool(complaint)):
            files: dict[str, int] = {}
            try:
                partial.mkdir(exist_ok=True)
                files = checkpoints.write_part(partial, ranks.rank, self.tensors())
            except (OSError, SafetensorError) as error:
                complaint = f"{final} can't be written: {error}"
            everywhere: list[Any] = [None] * ranks.world
            dist.all_gather_object(everywhere, (files, complaint))
            complaint = next((told for _, told in everywhere if told), "")
            if ranks.leads and not complaint:
                saved = Saved(
                    step=step,
                    updates=self.updates,
                    world=ranks.world,
                    config=self.network.config,
                    stage=stage.model_dump(),
                    parts=parts,
                    parameters={name: tuple(p.ds_shape) for name, p in self.parameters.items()},  # type: ignore[attr-defined]
                    trained=self.trained,
                    files={name: size for of_rank, _ in everywhere for name, size in of_rank.items()},
                    data=data,
                )
                try:
                    checkpoints.finish(partial, final, saved)
                except OSError as error:
                    complaint = f"{final} can't be written: {error}"
                else:
                    checkpoints.thin_out(run, stage.keep, final)
        if ranks.leads and complaint:
            shutil.rmtree(partial, ignore_errors=True)
        told = [complaint]
        dist.broadcast_object_list(told, 0)
        return told[0] or ""


@torch.no_grad()
def load_weights(network: S2VModel, parts: Parts) -> None:
    """The weights of a run's checkpoint, each rank its part; to go on with them, or to start the next stage."""
    for name, parameter in network.named_parameters():
        first, last = span(parameter)
        own_part(parameter)[: last - first].copy_(parts.read(parts.weights(name), name, first, last))
