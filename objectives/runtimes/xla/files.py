"""Names of the files of an XLA artifact, and of those that a conversion exchanges."""

MODULE = "model.jax_export"
"""A StableHLO module as `jax.export` serializes it; its arguments are the weights and inputs."""
WEIGHTS = "weights.safetensors"
TRACED = "traced.pt2"
ANSWER = "answer.json"
