"""Robust aggregation: rules in the place of the mean, for cohorts in which some lie."""
