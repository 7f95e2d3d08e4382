"""What a candidate is compared with."""
