"""Razin et al. 2025, Unintentional Unalignment: Likelihood Displacement in Direct Preference Optimization."""
