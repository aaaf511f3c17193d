"""Euclid Q1 products: their column lists, identifiers and file formats."""
