"""Models: the contract (`Model`), the zoo, and Keras models of one's own."""
