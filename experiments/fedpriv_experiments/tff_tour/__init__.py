"""A tour of TensorFlow Federated: a federated mean, image classification, and what each engine's server learns."""
