"""The commands for runs on images. Each module has a `Config`, a `main` and a text for --help.

`gan_jax_command.COMMANDS` lists them.
"""
