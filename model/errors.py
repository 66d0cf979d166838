"""What stops a command, as a sentence that names the file and the remedy."""


class InputError(Exception):
    """An image, a track, a video or an option that can't be used. The command line exits with 2."""


class CheckpointError(InputError):
    """A checkpoint folder that lacks something, or holds something else."""


class WorkError(Exception):
    """Work that began can't go on. The message says what is kept and what to do; the command line exits with 1."""
