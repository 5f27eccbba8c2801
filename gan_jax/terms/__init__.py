"""Terms of a player's loss besides the adversarial loss and penalties on the slope of D."""
