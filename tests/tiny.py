"""A backbone of one's own: timm's 200,000-parameter test network, for tests where the network does not matter."""

from featurestore.backbones.catalogue import BackboneSpec

TINY = BackboneSpec("tiny", "test_byobnet", 256)
