"""Lets torchvision be imported beside a CPU build of torch. `serve_env.sh` puts it into .venv-serve where that fails.

The usual wheel of torchvision is linked against CUDA. Without it, its compiled operators are missing, and importing it
fails where it describes them: "operator torchvision::nms does not exist". The processors of Qwen2.5-VL use none of
them. Here they are declared, not made, when something first asks for torchvision; Python starts as fast as before.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

DECLARED: list[object] = []  # a torch.library.Library takes its declarations along when it goes


class Declare(MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Finds nothing: the finders after this one do."""
        if fullname != "torchvision":
            return
        sys.meta_path.remove(self)
        from torch.library import Library

        library = Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor")
        DECLARED.append(library)


sys.meta_path.insert(0, Declare())
