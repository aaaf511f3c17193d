"""A small Q1-like release with known truth."""

from astropt_db.simulate.release import SimulationSummary, simulate

__all__ = ["SimulationSummary", "simulate"]
