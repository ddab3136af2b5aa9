"""The stages that codecs are composed of: select, quantise, position, entropy."""
