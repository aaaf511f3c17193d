"""Positions on the sphere: HEALPix."""
