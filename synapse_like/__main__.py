"""`python -m synapse_like`: the same as the command `synapse_like`."""

from synapse_like.commands import main

main(prog_name="synapse_like")
