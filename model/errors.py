"""What a user gave can't be used. The message names the file and the remedy; the command line exits with 2."""


class InputError(Exception):
    """An image, a track, a video or an option that can't be used."""


class CheckpointError(InputError):
    """A checkpoint folder that lacks something, or holds something else."""
