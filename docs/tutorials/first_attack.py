"""A first attack: one client sends one update, and the server reads the image off it."""

# %% [markdown]
# # A first attack in twenty lines
#
# In federated learning a client keeps its data and sends a model update. This tutorial takes the update of one client
# that holds one image, hands it to the server, and reconstructs the image.
#
# Run it as a script (`uv run python docs/tutorials/first_attack.py`), or cell by cell in VS Code or Jupytext. The
# figure goes to a temporary folder that is removed at the end; set `FEDPRIV_TUTORIAL_OUT` to a folder of yours to keep
# it.

# %%
import os
import tempfile

from fedpriv.base import registry
from fedpriv.data import load
from fedpriv.figures.reconstructions import quality_captions, reconstruction_grid
from fedpriv.figures.save import save
from fedpriv.models import load as load_model
from fedpriv.rounds.exposure import Exposure
from fedpriv.rounds.trial import run_trial
from fedpriv.threat.adversary import Adversary

# %% [markdown]
# ## Images and a model
#
# `fashion_small` comes with the package: 28 x 28 grey images in ten classes. The model is the LeNet of the paper that
# introduced this attack (Zhu, Liu, Han, 2019, arXiv 1906.08935), freshly initialized as theirs. `load` gives a
# training and a test set; the test set is not needed here.

# %%
train, _ = load("fashion_small")
model = load_model("lenet(init=uniform)", train.input_shape, train.num_classes)

# %% [markdown]
# ## One client's update, and who listens
#
# An `Exposure` runs rounds only to attack them. Here it is one round with one client, which holds one image and sends
# one gradient (FedSGD); these are its defaults. The adversary is the honest-but-curious server: it follows the protocol
# and keeps what it receives.
#
# What comes out is an `Observation` of two parts. The *view* goes to the attack. The *truth* goes to the scorer.

# %%
exposure = Exposure(model, train, trials=1, adversary=Adversary("server"))
observation = exposure.observe(0)[0]

# %% [markdown]
# ## What the view holds, and what it never holds
#
# It holds what this adversary would really have: `view.weights`, which it sent to the client; `view.observed`, the
# update that came back; the number of examples; the training procedure; and the defenses that run (none here). From
# these it can compute `view.simulate(x, y)`: the update the client would have sent, had it held the images `x` with the
# labels `y`.
#
# It never holds the image, the client's number, or anything that leads to them. It holds no label either: `view.labels`
# is `None`, unless the adversary is made to know the labels with `Adversary("server").knowing("labels")`.

# %%
print("The view is that of", observation.view.describe(), "Its labels:", observation.view.labels)

# %% [markdown]
# ## The attack
#
# DLG starts from noise around grey and a guessed label, simulates the update, and changes image and label until the
# simulated update matches the observed one. It is told nothing about clothes.
#
# `run_trial` shows the attack the view alone, and only afterwards compares its finding with the truth. PSNR measures
# how close two images are, in decibels: at 30 dB and more they look alike.

# %%
trial = run_trial(registry.attacks.create("dlg"), observation)
print(f"PSNR {trial.score.images[0].psnr:.1f} dB after {trial.finding.evaluations} gradient evaluations")

# %% [markdown]
# ## The figure
#
# Above the original, below what the server made of the update. `save` writes it as PNG and PDF.

# %%
figure = reconstruction_grid(observation.truth.x, {"DLG": trial.finding.x}, {"DLG": quality_captions(trial.score)})
temporary = tempfile.TemporaryDirectory()
print(*save(figure, os.path.join(os.environ.get("FEDPRIV_TUTORIAL_OUT", temporary.name), "first_attack")), sep="\n")

# %% [markdown]
# ## Further
#
# Try `"modern"` instead of `"dlg"`, `batch=4` in the exposure, or a defense there:
# `defenses=(registry.defenses.create("local_dp(clip=1,noise_multiplier=0.001)"),)`. Next:
# [own_attack_and_defense.py](own_attack_and_defense.py).
