"""Data sets of the package; importing this module loads none of them."""
