"""What can go wrong between the client and a server, each kind with an exception of its own."""


class ServingError(Exception):
    """A server was asked and there is no answer to use.

    The message stands alone: it names the server, the model and, where one was asked for, the
    version, says what happened and what to do.
    """


class Unavailable(ServingError):
    """The server cannot be reached, or refuses work for the moment; asking later may help."""


class DeadlineExceeded(ServingError):
    """There was no answer in time."""


class ModelNotFound(ServingError):
    """The server does not have the model, or not the version that was asked for."""


class BadRequest(ServingError):
    """The server does not take the request: another signature, other inputs, too large a batch."""


class NotAllowed(ServingError):
    """The server does not let this client in."""


class ResourceExhausted(ServingError):
    """The request or the answer is larger than a limit, or the server is out of memory."""


class ServerFailed(ServingError):
    """The server failed while it worked on the request."""


class BadAnswer(ServingError):
    """The server answered, but not as a model of this project does."""
