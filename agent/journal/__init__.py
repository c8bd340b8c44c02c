"""The journal: accepted requests and their results, so that none is lost and each id is answered once."""
