"""A classifier of three colors, for tests of what is done with the classes of photographs."""

from training.teachers.classifier import Classifier

COLORS = ("red", "lime", "blue")


class ColorClassifier(Classifier):
    """A classifier without a network. A test defines its probabilities."""

    num_classes = len(COLORS)

    class normalize:
        image_size = 8

    def __init__(self):
        """There is no network."""
