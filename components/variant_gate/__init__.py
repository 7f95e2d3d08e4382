"""VariantGate: holds a smaller model to what it may lose and must gain."""
