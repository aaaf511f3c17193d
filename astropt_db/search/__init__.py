"""Similarity search: queries, vector indexes and their recall, quality of the answers."""
