"""The commands of `hedgerow`, one file each: `add_arguments` describes the call, `run` carries it out."""
