"""The phases of a run, one file each: gather, collect, commit, close. A phase says which one follows it."""
