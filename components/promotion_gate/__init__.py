"""PromotionGate: blesses a model on evidence, in words and figures."""
