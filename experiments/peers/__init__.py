"""What others offer in one shot: one file per recipe, as its project's documentation advises it.

A recipe has a `TITLE`, `build(model, example_inputs, calibration_batches, folder)`, which writes
files, and `load(folder, model, threads)`, which returns a Program for them. `model` is there for
what has no file: compilers that work in the process. Neither may edit it.
"""
