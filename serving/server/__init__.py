"""A model server for this machine, and what runs a model in it."""
