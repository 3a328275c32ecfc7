"""fedpriv: privacy attacks and defenses in federated learning, on TensorFlow."""

__version__ = "0.1.0"
