"""R-GAP: the recursive gradient attack, layer by layer in closed form, and its rank analysis."""

from __future__ import annotations

from fedpriv_attacks.rgap.attack import RGAP
from fedpriv_attacks.rgap.ranks import LayerRank, RankAnalysis, rank_analysis

__all__ = ["RGAP", "LayerRank", "RankAnalysis", "rank_analysis"]
