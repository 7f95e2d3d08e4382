"""Everything that computes: tokenizer, encoders, classifier, training and export."""
