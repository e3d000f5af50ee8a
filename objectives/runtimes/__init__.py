"""Catalogue of runtimes: each exports, loads and executes artifacts in its own file format."""
