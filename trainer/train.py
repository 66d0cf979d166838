"""Train under torchrun or DeepSpeed's launcher: torchrun --nproc-per-node 8 -m trainer.train --stage speech ...

The same options as `s2v train`, which starts this on the GPUs of one machine.
"""

import sys

from cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
