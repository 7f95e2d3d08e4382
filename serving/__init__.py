"""The gRPC client and a TF-Serving-compatible server for this machine."""

DEFAULT_MODEL = "model"
"""The name under which a server offers its model, and a client asks for it, by default."""
