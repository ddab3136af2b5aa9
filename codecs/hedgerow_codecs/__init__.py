"""Turn arrays into bytes and back: layout, masks, quantisers, entropy coding, frames."""
