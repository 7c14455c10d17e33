"""Backbones of one's own: timm's small test networks, for tests where the network does not matter."""

from featurestore.backbones.catalogue import BackboneSpec

TINY = BackboneSpec("tiny", "test_byobnet", 256)
"""200,000 parameters, features that are not negative."""

SECOND = BackboneSpec("second", "test_resnet", 96)
"""Where one network is too few: the files of a shard's two specs are one commit."""

PLAIN = BackboneSpec("plain", "test_convnext", 64)
"""Without batch normalisation, so that images of a batch do not see each other."""

BARE = BackboneSpec("bare", "test_nfnet", 192)
"""Without any normalisation; its convolutions standardise their weights instead."""
