"""The embedded sample: invented bilingual reviews, their vocabulary and their generator."""
