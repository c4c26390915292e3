"""Cameras and what they are made of."""

from phaseveil.optics import dynamic as dynamic  # a kind of camera that has to be known wherever one is built
