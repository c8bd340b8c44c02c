"""Which models there are, which of their files are here and whole, and how to get the others."""
