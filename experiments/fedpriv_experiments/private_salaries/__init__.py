"""Private salaries: some people learn the mean of their salaries, and nothing else, by the protocols of secure sums."""
