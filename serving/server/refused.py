"""What a server answers in place of a result."""

import grpc


class Refused(Exception):
    """A request is not answered.

    Attributes:
        code: gRPC's status.
        message: Says what is wrong, and where it can be said what to do.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def invalid(message: str) -> Refused:
    """Returns the refusal of a request that is wrong in itself."""
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, message)
