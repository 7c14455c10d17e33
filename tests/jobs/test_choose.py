"""Which stored vectors a classifier job takes."""

from __future__ import annotations

import pyarrow as pa
import pytest

from featurestore.errors import UsageError
from featurestore.store import Store
from jobs.choose import stored_specs

SPECS = [("xception", "s5", "imagenet"), ("vgg16", "s1", "random:1"), ("vgg16", "s2", "random:2")]


@pytest.fixture
def store(tmp_path) -> Store:
    """Return a store whose data set `one` has xception and a VGG16, `two` both VGG16s, `none` no vectors."""
    store = Store(tmp_path / "store")
    store.append("images", pa.table({"image_id": ["a", "b", "c"], "dataset": ["one", "two", "none"]}))
    columns = ("backbone", "spec_id", "weights")
    store.append("specs", pa.table({name: [row[k] for row in SPECS] for k, name in enumerate(columns)}))
    for image, spec in (("a", SPECS[0]), ("a", SPECS[1]), ("b", SPECS[1]), ("b", SPECS[2])):
        store.append("embeddings", pa.table({"backbone": [spec[0]], "spec_id": [spec[1]], "image_id": [image]}))
    return store


def test_all_is_every_backbone_with_vectors_in_the_catalogues_order(store):
    assert list(stored_specs(store, "one").items()) == [("xception", ("s5", "imagenet")), ("vgg16", ("s1", "random:1"))]


@pytest.mark.parametrize("wanted", ["vgg16", " vgg16 ", "s1", "vgg16,vgg16", "s1,s1", "s1,vgg16"])
def test_one_can_be_named_by_backbone_or_spec(store, wanted):
    assert stored_specs(store, "one", wanted) == {"vgg16": ("s1", "random:1")}


def test_backbones_and_specs_mix(store):
    assert stored_specs(store, "one", "xception,s1") == {"xception": ("s5", "imagenet"), "vgg16": ("s1", "random:1")}


@pytest.mark.parametrize("wanted", ["all", "vgg16", "s1,s2"])
def test_two_specs_of_one_backbone_have_to_be_told_apart(store, wanted):
    with pytest.raises(
        UsageError, match=r"vgg16 has 2 specs here: s1, s2; choose with --backbones, which takes spec_ids too"
    ):
        stored_specs(store, "two", wanted)


@pytest.mark.parametrize("spec_id", ["s1", "s2"])
def test_a_named_spec_tells_them_apart(store, spec_id):
    assert stored_specs(store, "two", spec_id) == {"vgg16": (spec_id, f"random:{spec_id[1]}")}


def test_a_backbone_without_vectors_says_what_to_run(store):
    with pytest.raises(
        UsageError, match=r"vgg19 has no vectors of one; run cxr extract --dataset one --backbones vgg19"
    ):
        stored_specs(store, "one", "vgg16,vgg19")


def test_a_data_set_without_vectors_says_what_to_run(store):
    with pytest.raises(UsageError, match=r"no vectors of none are stored; run cxr extract --dataset none first"):
        stored_specs(store, "none")


@pytest.mark.parametrize(
    ("wanted", "words"), [("vgg61", "no backbone 'vgg61'; there are densenet121"), ("", "no backbone named")]
)
def test_a_name_that_is_none_is_told_the_names(store, wanted, words):
    with pytest.raises(UsageError, match=words):
        stored_specs(store, "one", wanted)


def test_a_spec_of_another_data_set_is_not_taken(store):
    with pytest.raises(UsageError, match=r"no backbone 's2'"):
        stored_specs(store, "one", "s2")
