"""What stops a command, as a sentence that says what to do."""


class UsageError(Exception):
    """The user asked for something that can't be; the message says what to do. Exit code 2."""


class RunError(Exception):
    """The run can't go on; the message says what to do. Exit code 1."""
