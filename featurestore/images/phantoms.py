"""Chest-radiograph phantoms: images that are physics all the way, for demonstrations and tests without data.

A chest is a set of thickness maps (soft tissue, lung, gas, bone, metal); a finding changes them; Beer-Lambert's law,
scatter, quanta and a display curve make the film. So every finding has an exact region, and nothing is drawn on top.

>>> from featurestore.images.phantoms import generate_patient
>>> image = generate_patient(seed=0, hospital="a", index=0, size=64)[0]
>>> image.pixels.shape, image.pixels.dtype.name, len(image.labels)
((64, 64), 'uint16', 14)

What a phantom is not: its findings are simpler than disease, so no number measured on phantoms says anything about a
model on patients. Pneumonia, a clinical diagnosis, is left unmentioned in all of them.
"""

from featurestore.images.phantom_labels import LABELS
from featurestore.images.phantom_patient import MASK_FRACTION, PhantomImage, generate_patient
from featurestore.images.phantom_plan import Hospital
from featurestore.images.phantom_writer import Format, write_phantoms

__all__ = ["LABELS", "MASK_FRACTION", "Format", "Hospital", "PhantomImage", "generate_patient", "write_phantoms"]
