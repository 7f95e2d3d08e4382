"""The exceptions for what a user can mend."""


class InputError(ValueError):
    """A mistake in what the user gave: a file, a row, an option, a folder.

    The message stands alone: it names the file, the line and the field where there is one, says
    what was expected and what to do. The command line prints it without a traceback and exits
    with code 2.
    """


class DataRefused(InputError):
    """Rows that were read well, but would spoil a model: a gate of the data stops the run.

    The command line exits with code 4.
    """
