"""Search an index of photographs: `index.Index`, and the `dcclip` commands in commands.py."""
