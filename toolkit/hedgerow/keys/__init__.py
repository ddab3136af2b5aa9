"""`hedgerow keys`: an authority of one's own, and the credentials that it gives out.

Nothing is imported here: the modules need the package `cryptography`.
"""
