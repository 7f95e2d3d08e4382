"""The gRPC client and a TF-Serving-compatible server for this machine."""
