"""Compressor: makes a trained model smaller."""
