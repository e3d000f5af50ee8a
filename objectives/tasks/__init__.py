"""Trained models with their data: one file each."""
