"""An attack and a defense of your own: written, run together, put into a grid, and registered by name."""

# %% [markdown]
# # An attack and a defense of your own
#
# The folder `my_plugins` beside this file is a small package with one module, `my_plugins.py`, that has one of each:
#
# - `TopK`, a defense that sends only the largest coordinates of an update,
# - `Match`, an attack that searches for the images whose simulated update matches the observed one.
#
# Run this as a script (`uv run python docs/tutorials/own_attack_and_defense.py`), or cell by cell from this folder in
# VS Code or Jupytext. Results go to a temporary folder; set `FEDPRIV_TUTORIAL_OUT` to keep them.

# %%
import csv
import inspect
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from fedpriv.base import registry
from fedpriv.base.errors import CapabilityError
from fedpriv.data import load
from fedpriv.figures.reconstructions import quality_captions, reconstruction_grid
from fedpriv.figures.save import save
from fedpriv.models import load as load_model
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import run_trial
from fedpriv.threat.adversary import Adversary

here = Path(globals().get("__file__", "own_attack_and_defense.py")).resolve().parent
temporary = tempfile.TemporaryDirectory()  # removed at the end
out = Path(os.environ.get("FEDPRIV_TUTORIAL_OUT", temporary.name)).resolve()
sys.path.insert(0, str(here / "my_plugins"))  # stands for `pip install ./my_plugins`

from my_plugins import Match, TopK  # noqa: E402

# %% [markdown]
# ## A defense
#
# A defense subclasses `Defense` and overrides the stations it acts at. `TopK` acts at the `update` station: it gets one
# client's finished model delta as a flat vector `[d]` and returns a vector of that length. A `Passed` around it adds
# what people want to know (`log`) and what it takes on the wire (`bits`).
#
# - Its parameters are annotated fields. They are checked when it is made, from Python, the command line or a file.
# - The function is traced into TensorFlow's graph: no Python `if` on a tensor, and no randomness but `context.seed`.
# - It is deterministic, so it stays `replayable`: an adversary who knows that it runs simulates it too.
# - It claims no formal guarantee, and its docstring says so. A defense that has one returns it from `claims`.

# %%
print(inspect.getsource(TopK))

# %% [markdown]
# ## An attack
#
# An attack subclasses `Attack`, says what it `needs` of its view, and returns a `Finding`. The core of `Match` is
# `view.simulate(x, labels)`: what the client would have sent. It can be differentiated, so any minimizer will do; here
# it is SciPy's L-BFGS. `simulate` alone knows how the client trains and which known defenses run.

# %%
print(inspect.getsource(Match))

# %% [markdown]
# ## One update
#
# First without a defense, then with `TopK`. What arrives has exactly `k` coordinates that are not zero.

# %%
train, _ = load("fashion_small")
model = load_model("lenet(init=uniform)", train.input_shape, train.num_classes)
knowing = Adversary("server").knowing("labels")
top_k = TopK(fraction=0.3)

plain = Exposure(model, train, trials=1, adversary=knowing).observe(0)[0]
defended = Exposure(model, train, trials=1, adversary=knowing, defenses=(top_k,)).observe(0)[0]
for name, observation in (("none", plain), ("top_k", defended)):
    print(f"{name}: {np.count_nonzero(observation.view.observed)} of {model.spec.size} coordinates are not zero")
print(f"top_k keeps {top_k.count(model.spec.size)}")

trial = run_trial(Match(), plain)
print(f"match without a defense: {trial.score.images[0].psnr:.1f} dB in {trial.finding.seconds:.1f} s")

# %% [markdown]
# An attack whose adversary lacks what it needs is refused, in words. `Match` needs the labels:

# %%
blind = Exposure(model, train, trials=1, adversary=Adversary("server")).observe(0)[0]
try:
    run_trial(Match(), blind)
except CapabilityError as refusal:
    print(refusal)

# %% [markdown]
# ## Who knows the defense
#
# A defense that works only while nobody knows of it is weak, so ask both. DLG, which comes with fedpriv, was written
# long before `TopK`. It replays it nevertheless, through `simulate`.

# %%
secret = Adversary("server", knowing.knows - {"defense"})
unaware = Exposure(model, train, trials=1, adversary=secret, defenses=(top_k,)).observe(0)[0]
dlg = registry.attacks.create("dlg(restarts=1)")
trials = {
    "match, no defense": trial,
    "dlg, top_k not known": run_trial(dlg, unaware),
    "dlg, top_k known": run_trial(dlg, defended),
}
for label, done in trials.items():
    print(f"{label}: {done.score.images[0].psnr:.1f} dB")
rows = {label: done.finding.x for label, done in trials.items()}
captions = {label: quality_captions(done.score) for label, done in trials.items()}
print(*save(reconstruction_grid(plain.truth.x, rows, captions), out / "own_attack_and_defense"), sep="\n")

# %% [markdown]
# ## A grid
#
# An experiment file varies any field of a setting. Wherever it takes the name of an attack or a defense, it takes
# `module:Class` too. An axis of your own (`adversary` here) maps labels to overrides; `exclude` leaves out what makes
# no sense: without a defense there is nothing to know about it.

# %%
experiment = """\
name: own_grid
title: My attack and my defense
question: Does keeping the largest coordinates hide the image, and from whom?
setting:
  data: fashion_small
  model: lenet(init=uniform)
  exposure: {images: 1, knows: labels}
grid:
  attack:
    match: my_plugins:Match
    DLG: dlg(restarts=1)
  defense:
    none: none
    top 30%: my_plugins:TopK(fraction=0.3)
  adversary:
    knows the defense: {}
    does not: {exposure.blind: defense}
exclude:
  - {defense: none, adversary: does not}
"""
out.mkdir(parents=True, exist_ok=True)
file, results = out / "own_grid.yaml", out / "own_grid"
file.write_text(experiment)

# %% [markdown]
# In a shell this is `fedpriv run own_grid.yaml`, in the folder that holds `my_plugins.py`, or in any folder once the
# package is installed. Run again, it does only what is not done yet.

# %%
command = [sys.executable, "-m", "fedpriv", "run", str(file), "--out", str(results)]
done = subprocess.run(command, cwd=here / "my_plugins", capture_output=True, text=True)
print(done.stdout, done.stderr if done.returncode else "")

# %% [markdown]
# The folder has `report.html` with the figures and a conclusion, and the numbers as CSV: `arms.csv` has one line for
# each combination.

# %%
with open(results / "arms.csv", newline="") as lines:
    for line in csv.DictReader(lines):
        print(line["attack"], line["defense"], line["adversary"], line["psnr_mean"], sep=" | ")

# %% [markdown]
# ## Names
#
# Two tables in `my_plugins/pyproject.toml` register the classes:
#
# ```toml
# [project.entry-points."fedpriv.attacks"]
# match = "my_plugins:Match"
#
# [project.entry-points."fedpriv.defenses"]
# keep_largest = "my_plugins:TopK"
# ```
#
# After `pip install ./my_plugins` (or `uv pip install ./my_plugins`) in this folder, the names stand beside
# fedpriv's own:
#
# ```sh
# fedpriv list attacks
# fedpriv show keep_largest
# fedpriv attack match --knows labels -d "keep_largest(fraction=0.3)"
# ```
#
# and in the experiment file `match` and `keep_largest(fraction=0.3)` do in place of the dotted names.
