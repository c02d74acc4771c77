"""What do finished runs say when they are laid side by side? One page, and its pictures."""
