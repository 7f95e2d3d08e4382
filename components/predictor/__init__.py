"""Predictor: the answers of the candidate and of the last good model, row by row."""
