"""The commands for runs on images: each module has a `Config`, a `main` and a docstring for --help.

`gan_jax_command.COMMANDS` lists them.
"""
