"""Cameras and what they are made of."""

# Kinds of camera that have to be known wherever one is built:
from phaseveil.optics import dynamic as dynamic
from phaseveil.optics import height_map as height_map
