"""Similarity search: queries, vector indexes, their measured recall, and how good the answers are."""
