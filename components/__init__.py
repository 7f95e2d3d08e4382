"""TFX nodes that TFX does not ship: one folder each, with component.py and executor.py."""
