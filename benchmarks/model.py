"""What the network costs: what its caches give, how fast its blocks are, whether compiling pays, what memory it takes.

    python -m benchmarks.model caches [--dim 512] [--layers 8] [--size 128x128] [--steps 40]
    python -m benchmarks.model blocks
    python -m benchmarks.model compile
    python -m benchmarks.model memory

Weights are random: they change no cost. What is compared takes turns within one run; times are medians with the
quartiles, and so are ratios, each of one turn. On CUDA the width is the real one, in bfloat16; on a CPU it is reduced.
"""

import argparse

from benchmarks.measuring import CUDA, REAL
from benchmarks.model_blocks import blocks, compile_command
from benchmarks.model_caches import caches
from benchmarks.model_memory import memory


def parse_size(text: str) -> tuple[int, int]:
    width, height = (int(side) for side in text.split("x"))
    if width % 64 or height % 64:
        raise argparse.ArgumentTypeError("both sides must be multiples of 64")
    return width, height


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("caches", help="the sampler against a plain one that recomputes everything")
    command.add_argument("--dim", type=int, default=REAL.dim if CUDA else 512, help="a multiple of 128")
    command.add_argument("--layers", type=int, default=4 if CUDA else 8)
    command.add_argument("--size", type=parse_size, default="704x1024" if CUDA else "128x128", help="width x height")
    command.add_argument("--steps", type=int, default=40)
    command.add_argument("--turns", type=int, default=5)
    command.set_defaults(run=caches)
    command = commands.add_parser("blocks", help="throughput of single blocks, with and without torch.compile")
    command.add_argument("--turns", type=int, default=10)
    command.set_defaults(run=blocks)
    command = commands.add_parser("compile", help="after how many clips torch.compile pays")
    command.add_argument("--shape", type=int, choices=range(3), default=2, help="of `blocks`: 0 is the smallest")
    command.add_argument("--turns", type=int, default=10)
    command.set_defaults(run=compile_command)
    command = commands.add_parser("memory", help="predicted by S2VConfig against what is allocated")
    command.add_argument("--layers", type=int, default=2, help="of the network that is measured on CUDA")
    command.set_defaults(run=memory)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
