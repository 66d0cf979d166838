"""What training costs, and whether many ranks train what one would.

    python -m benchmarks.trainer loader [--shards DIR]      samples a second and core, against the need of 8 H100
    python -m benchmarks.trainer blocks [--layers 2]        forward and backward, with each choice of what is recomputed
    python -m benchmarks.trainer memory                     predicted activations against what is allocated
    python -m benchmarks.trainer start [--ranks 4]          memory that a rank takes to start
    python -m benchmarks.trainer parity                     gradients of 2 and 4 ranks against one

Each has options of its own: --help after it.
"""

import sys
from collections.abc import Callable, Sequence

from benchmarks import trainer_blocks, trainer_loader, trainer_memory, trainer_parity, trainer_start

COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "loader": trainer_loader.main,
    "blocks": trainer_blocks.main,
    "memory": trainer_memory.main,
    "start": trainer_start.main,
    "parity": trainer_parity.main,
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    COMMANDS[sys.argv[1]](sys.argv[2:])


if __name__ == "__main__":
    main()
