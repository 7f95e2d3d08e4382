"""DataGate: stops the run on data that would spoil a model."""
