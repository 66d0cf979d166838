"""The head of the improved aesthetic predictor: a CLIP embedding -> how much people like the picture, 1 to 10.

Source: https://github.com/christophschuhmann/improved-aesthetic-predictor (Apache-2.0), weights
sac+logos+ava1-l14-linearMSE.pth. Its five layers have nothing but dropout between them.
"""

from pathlib import Path

from torch import Tensor, nn

from filters.nets import checkpoint

SIZES = (768, 1024, 128, 64, 16, 1)
PLACES = (0, 2, 4, 6, 7)  # of the layers in the official file: dropout stands between them, but not before the last
REMEDY = "Use sac+logos+ava1-l14-linearMSE.pth of https://github.com/christophschuhmann/improved-aesthetic-predictor."


class AestheticHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        sizes = zip(PLACES, SIZES, SIZES[1:], strict=False)
        self.layers = nn.ModuleDict({str(place): nn.Linear(before, after) for place, before, after in sizes})

    def forward(self, embedding_BC: Tensor) -> Tensor:
        """(B, 768) projected image embeddings of CLIP ViT-L/14, of any length -> (B,)."""
        x_BC = nn.functional.normalize(embedding_BC.float(), dim=-1)
        for layer in self.layers.values():
            x_BC = layer(x_BC)
        return x_BC[:, 0]


def load(path: Path) -> AestheticHead:
    """The official weights on the CPU, ready to score. Raises ValueError where the file holds something else."""
    return checkpoint.filled(AestheticHead(), checkpoint.read(path, REMEDY), path, "the aesthetic head", REMEDY)
