"""TokenGate: stops the run where the vocabulary or the length does not fit the text."""
