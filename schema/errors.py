"""The one exception for mistakes a user can mend."""


class InputError(ValueError):
    """A mistake in what the user gave: a file, a row, an option, a folder.

    The message stands alone: it names the file, the line and the field where there is one, says
    what was expected and what to do. The command line prints it without a traceback and exits
    with code 2.
    """
