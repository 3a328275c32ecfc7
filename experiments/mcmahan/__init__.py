"""McMahan et al. 2017 (arXiv 1602.05629), the MNIST 2NN at C=0.1, E=1, B=10: rounds to 97% test accuracy."""
