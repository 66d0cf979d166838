"""The processes that make one video together: the first one reads, encodes and writes; all of them sample."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from generation.saved import SavedLatents
from model.errors import InputError, WorkError
from model.launch import own_device
from model.long_video import VAE, Ranks
from model.sequence_parallel import SequenceParallel, build_mesh, choose_degrees

T = TypeVar("T")
PATIENCE = timedelta(hours=2)  # the others wait while the leader reads an encoder from a slow disk, or decodes


@dataclass(frozen=True)
class Team:
    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def pictures(self) -> torch.device:
        """Where pictures live: only the leader has any; the others know their shapes."""
        return self.device if self.leads else torch.device("meta")

    def share(self, make: Callable[[], T]) -> T:
        """What `make` returns to the leader, on every rank. If it fails there, the others end without a word."""
        if self.world == 1:
            return make()
        failure: Exception | None = None
        held: list[Any] = [None, 0]  # what was made, or an exit code
        if self.leads:
            try:
                held[0] = make()
            except (InputError, WorkError) as e:
                failure, held[1] = e, 2 if isinstance(e, InputError) else 1
        dist.broadcast_object_list(held, src=0, device=self.device if self.device.type == "cuda" else None)
        if held[1]:
            leave()  # its threads may abort a process that ends while they run, and another code would be told
            raise failure or SystemExit(held[1])
        return held[0]

    def share_tensor(self, make: Callable[[], Tensor]) -> Tensor:
        return make().to(self.device) if self.world == 1 else self.share(lambda: make().cpu()).to(self.device)


def join() -> Team:
    """The team that torchrun started, or this process alone."""
    world, device = int(os.environ.get("WORLD_SIZE", 1)), own_device()
    cuda = device.type == "cuda"
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None, timeout=PATIENCE)
    return Team(int(os.environ.get("RANK", 0)), world, device)


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


class LeadersVAE:
    """A VAE that only the leader has. Latents go to everybody; pictures stay with it, the others see their shape."""

    def __init__(self, team: Team, vae: VAE | None):
        self.team, self.vae = team, vae

    def encode(self, frames_CTHW: Tensor) -> Tensor:
        vae = self.vae
        return self.team.share_tensor(lambda: vae.encode(frames_CTHW))  # type: ignore[union-attr]

    def decode(self, latents_CThw: Tensor) -> Tensor:
        if self.vae:
            return self.vae.decode(latents_CThw)
        _, frames, h, w = latents_CThw.shape
        return torch.empty(3, 4 * (frames - 1) + 1, 8 * h, 8 * w, device="meta")


class LeadersLatents:
    """Saved latents that only the leader reads and writes."""

    def __init__(self, team: Team, saved: SavedLatents | None):
        self.team, self.saved = team, saved

    def load(self, clip: int) -> Tensor | None:
        saved = self.saved
        return self.team.share(lambda: saved.load(clip))  # type: ignore[union-attr]

    def save(self, clip: int, latents: Tensor) -> None:
        if self.saved:
            self.saved.save(clip, latents)

    def remove(self) -> None:
        if self.saved:
            self.saved.remove()

    def kept(self) -> str:
        """What there is, as a sentence."""
        return f"{len(self.saved.files())} sampled clips are kept in {self.saved.folder}." if self.saved else ""


class Branches:
    """The two replicas of a mesh as the branches of guidance: 0 conditional, 1 unconditional."""

    def __init__(self, group: dist.ProcessGroup):
        self.group, self.branch = group, group.rank()

    def __call__(self, velocity: Tensor) -> tuple[Tensor, Tensor]:
        both = [torch.empty_like(velocity) for _ in range(2)]
        dist.all_gather(both, velocity.contiguous(), group=self.group)
        return both[0], both[1]


def divide(team: Team, heads: int, guidance: float) -> tuple[Ranks, str]:
    """How the ranks divide the work, and why: guidance's branches first (they hardly talk), then the sequence."""
    if team.world == 1:
        return Ranks(), ""
    branches = 2 if guidance > 1 and team.world % 2 == 0 else 1
    degrees = choose_degrees(team.world // branches, heads, int(os.environ.get("LOCAL_WORLD_SIZE", team.world)))
    mesh = build_mesh(degrees.ring, degrees.ulysses, heads)
    why = "Half of the ranks for each branch of guidance. " if branches == 2 else ""
    if mesh.sequence.size() > 1:
        why += degrees.why
    return Ranks(SequenceParallel(mesh), Branches(mesh.replicas) if branches == 2 else None), why
