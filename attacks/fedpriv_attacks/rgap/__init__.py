"""R-GAP: the recursive gradient attack, layer by layer in closed form, and its rank analysis."""
