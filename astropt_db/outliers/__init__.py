"""Outliers and maps: which sources are unlike the others, why, and where they lie."""
