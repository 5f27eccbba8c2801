"""The commands for runs on images, one module each; `gan_jax_command` calls their `command`."""
