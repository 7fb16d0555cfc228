"""The command `synapse_like`, and `python -m synapse_like`."""

import gc


def main() -> None:
    """Run the command that the command line names."""
    # Until it is known which: see `commands.options.Serving`.
    gc.disable()
    from synapse_like.commands import main as run

    run(prog_name="synapse_like")


if __name__ == "__main__":
    main()
