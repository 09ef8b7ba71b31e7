"""The command `wampkit`, a file a command."""
