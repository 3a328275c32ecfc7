"""Shipped experiments, as files for `fedpriv run`."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent

demo = _HERE / "demo.yaml"
mcmahan = _HERE / "mcmahan.yaml"
dlg_reproduction = _HERE / "dlg_reproduction.yaml"
attack_vs_defense = _HERE / "attack_vs_defense.yaml"
privacy_utility = _HERE / "privacy_utility.yaml"
training_stage = _HERE / "training_stage.yaml"
cohort_size = _HERE / "cohort_size.yaml"
local_steps = _HERE / "local_steps.yaml"
batch_size = _HERE / "batch_size.yaml"
published = _HERE / "published.yaml"
rgap_precision = _HERE / "rgap_precision.yaml"
exact_batches = _HERE / "exact_batches.yaml"
networks = _HERE / "networks.yaml"
portfolio = _HERE / "portfolio.yaml"
seed_search = _HERE / "seed_search.yaml"
secure_sums = _HERE / "secure_sums.yaml"
sum_difference = _HERE / "sum_difference.yaml"
sparse_sums = _HERE / "sparse_sums.yaml"
gossip_vs_server = _HERE / "gossip_vs_server.yaml"
text = _HERE / "text.yaml"
text_length = _HERE / "text_length.yaml"
malicious_servers = _HERE / "malicious_servers.yaml"
empirical_defenses = _HERE / "empirical_defenses.yaml"
peeling = _HERE / "peeling.yaml"
batch_norm = _HERE / "batch_norm.yaml"
referee = _HERE / "referee.yaml"
referee_replay = _HERE / "referee_replay.yaml"
referee_resnet = _HERE / "referee_resnet.yaml"
