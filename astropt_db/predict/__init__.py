"""Vectors to science: labels, heads, versioned predictors, predictions, and their evaluation."""
