"""From a decision back to pixels. Submodules load on demand: importing this package costs nothing."""
