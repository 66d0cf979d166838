"""How much people like the pictures: the improved aesthetic predictor on CLIP ViT-L/14."""

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import PrivateAttr

from dataset.media import Frames
from filters import weights
from filters.base import ClipView, Filter, Measurement, Needs, score

if TYPE_CHECKING:
    from filters.nets.aesthetic import AestheticHead

# Twice as large as what CLIP sees: its own bicubic step then averages, as it would from the native picture.
FRAMES = Frames(fps=1, short_side=448)
CLIP = "clip-vit-large-patch14"  # a directory
HEAD = "aesthetic/sac+logos+ava1-l14-linearMSE.pth"
UNIT = "1 to 10"


class Aesthetic(Filter):
    """Visual appeal by human preferences (paper section 2, metric 4: improved aesthetic predictor), one frame a second.

    CLIP sees the square in the middle of a picture: the sides of a wide one and the ends of an upright one don't count.
    """

    needs = Needs(frames=(FRAMES,))
    weights = (CLIP, HEAD)

    _prepare: Any = PrivateAttr()
    _vision: Any = PrivateAttr()
    _head: "AestheticHead" = PrivateAttr()

    class Scores(Measurement):
        mean: float | None = score(unit=UNIT, better="higher", about="over frames; about 5 for most photos")
        least: float | None = score(unit=UNIT, better="higher", about="of the least liked frame")

    def setup(self) -> None:
        from transformers import CLIPVisionModelWithProjection

        # By name: the processor that transformers picks itself depends on whether torchvision is there.
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        from filters.nets import aesthetic, snapshot
        from filters.nets.device import placed

        folder = weights.path(CLIP)
        self._prepare = CLIPImageProcessorPil.from_pretrained(folder, local_files_only=True)
        self._vision = placed(snapshot.load(CLIPVisionModelWithProjection, folder))
        self._head = placed(aesthetic.load(weights.path(HEAD)))

    def measure(self, clip: ClipView) -> Scores:
        import torch

        from filters.nets.device import device, half

        images = clip.frames(FRAMES).images
        if not images:
            return self.Scores()
        pixels = self._prepare(images, return_tensors="pt")["pixel_values"].to(device())
        with torch.inference_mode():
            with half():
                embeddings = self._vision(pixel_values=pixels).image_embeds
            found = self._head(embeddings).cpu().numpy()
        return self.Scores(mean=float(np.mean(found)), least=float(np.min(found)))
