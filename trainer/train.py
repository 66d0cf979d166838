"""Train under torchrun or DeepSpeed's launcher: torchrun --nproc-per-node 8 -m trainer.train --stage speech ...

The same options as `s2v train`, which starts this on the GPUs of one machine.
"""

import os
import sys

from cli import main

if __name__ == "__main__":
    if "LOCAL_SIZE" in os.environ:  # DeepSpeed's launcher has names of its own
        os.environ.setdefault("LOCAL_WORLD_SIZE", os.environ["LOCAL_SIZE"])
    main(["train", *(word for word in sys.argv[1:] if not word.startswith("--local_rank="))])
