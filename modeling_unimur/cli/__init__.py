"""The `unimur` command: one small file for each sub-command, imported only when it is called."""
