"""Tasks: what models are trained for, one a file."""
