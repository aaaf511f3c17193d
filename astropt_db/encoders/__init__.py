"""Encoders in the database, and the pre-training of new ones from its images."""
