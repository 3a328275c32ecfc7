"""A property of images, for `property(of=tests.metrics.goals.traits:bright)`."""


def bright(x, y):
    return x.mean((1, 2, 3)) > 0.5
