"""The processor: what its texts say, and what they mean."""
